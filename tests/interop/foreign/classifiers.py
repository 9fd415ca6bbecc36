"""transformers alone: saves classifiers, and gives rewards of token ids. classifiers.py task.json answer.json"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer


def make(config, folder, tokenizer):
    """Save a classifier with random weights, also of norms and biases, as its authors would."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**config, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder, max_shard_size="150KB")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def rewards(folder, conversations):
    """Reward of each list of token ids."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0, 0].item() for ids in conversations]


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    for folder, config in task.get("made", {}).items():
        make(config, folder, task["tokenizer"])
    answer = {"rewards": {folder: rewards(folder, task["conversations"]) for folder in task["folders"]}}
    if "texts" in task:
        tokenizer = AutoTokenizer.from_pretrained(task["tokenizer"])
        answer["ids"] = [tokenizer(text)["input_ids"] for text in task["texts"]]
    Path(sys.argv[2]).write_text(json.dumps(answer))


main()
