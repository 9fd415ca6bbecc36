"""One rank of TRL's RewardTrainer, which runs a step at a time; `benchmarks.vs_trl` starts it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import SequentialSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

from benchmarks.turns import Turns


class InOrder(RewardTrainer):
    """TRL's trainer with pairs in the order of the file, so that both trainers see the same."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Report(TrainerCallback):
    """Ends each step with a turn and keeps the loss."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.end_step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--settings", required=True, help="JSON")
    args = parser.parse_args()
    settings = json.loads(args.settings)
    rank = int(os.environ.get("RANK", 0))
    num_ranks = int(os.environ.get("WORLD_SIZE", 1))
    turns = Turns(args.address, rank)
    # Weights are in fp32 under autocast to bf16, as TRL's trainer loads them; attention is torch's fused one.
    model = AutoModelForSequenceClassification.from_pretrained(
        settings["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    config = RewardConfig(
        output_dir=settings["folder"],
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=settings["batch"] // settings["micro_batch"] // num_ranks,
        max_steps=settings["steps"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        weight_decay=settings["weight_decay"],
        adam_beta2=settings["beta2"],
        max_grad_norm=1.0,
        max_length=None,  # both get the same pairs, which are cut already
        bf16=settings["bf16"],
        use_cpu=not settings["on_gpu"],
        gradient_checkpointing=False,  # TRL is faster without it
        seed=settings["seed"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_parquet(settings["pairs"], cache_dir=settings["folder"]),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        callbacks=[Report(turns)],
    )
    trainer.train()
    if rank == 0:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (Path(settings["folder"]) / "losses.json").write_text(json.dumps(losses))
        if settings["keeps_model"]:
            trainer.save_model(Path(settings["folder"]) / "model")


if __name__ == "__main__":
    main()
