"""TRL's RewardTrainer: starts from a folder, takes some steps and saves. trl_training.py task.json answer.json"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer


def rewards(model, conversations):
    """Reward of each list of token ids."""
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0, 0].item() for ids in conversations]


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    model = AutoModelForSequenceClassification.from_pretrained(task["folder"], num_labels=1, dtype=torch.float32)
    before = rewards(model, task["conversations"])
    config = RewardConfig(
        output_dir=task["output"], max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        save_strategy="no", learning_rate=1e-3, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(task["folder"])
    trainer = RewardTrainer(
        model, args=config, train_dataset=Dataset.from_list(task["pairs"]), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(task["output"])
    saved = AutoModelForSequenceClassification.from_pretrained(task["output"], num_labels=1, dtype=torch.float32)
    Path(sys.argv[2]).write_text(json.dumps({"before": before, "after": rewards(saved, task["conversations"])}))


main()
