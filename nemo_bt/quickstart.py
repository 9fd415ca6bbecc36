"""`make quickstart`: write a small preference set, train a reward model on it, export it, report, and score a pair."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.cli import main as cli
from nemo_bt.data.synthetic import write_dataset

EXPECTED_ACCURACY = 0.95


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write data and the run to")
    folder = parser.parse_args().output
    data = folder / "data"
    run = folder / "run"
    export = folder / "export"
    for old in (data, run, export):
        if old.exists():
            shutil.rmtree(old)
    write_dataset(data)
    argv = [
        "train",
        "--config-name=quickstart",
        f"exp_manager.explicit_log_dir={run}",
        f"model.data.train={data / 'train.parquet'}",
        f"model.data.validation.held_out={data / 'validation.parquet'}",
        f"model.tokenizer.type={data / 'tokenizer'}",
    ]
    print("nemo-bt " + " ".join(argv), flush=True)
    status = cli.run(argv)
    if status:
        sys.exit(status)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    if last["val/held_out/accuracy"] < EXPECTED_ACCURACY:
        sys.exit(f"expected a held-out accuracy of {EXPECTED_ACCURACY}, got {last['val/held_out/accuracy']:.4f}")
    checkpoint = saved_checkpoints(run / "checkpoints")[-1]
    command = ["-m", "nemo_bt", "export", "--input", str(checkpoint), "--output", str(export)]
    print("nemo-bt " + " ".join(command[2:]), flush=True)
    status = subprocess.run([sys.executable, *command]).returncode
    if status:
        sys.exit(status)
    argv = ["report", str(run)]
    print("nemo-bt " + " ".join(argv), flush=True)
    status = cli.run(argv)
    if status:
        sys.exit(status)
    score_first_pair(export, data / "validation.parquet")


def score_first_pair(export: Path, pairs: Path) -> None:
    """Score the first pair of a file with transformers alone, and print both answers with their rewards."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    row = pq.read_table(pairs).slice(0, 1).to_pylist()[0]
    print(f"one held-out pair, scored by transformers from {export}")
    print(f"  prompt    {row['chosen'][0]['content']}")
    rewards = []
    for side in ("chosen", "rejected"):
        text = tokenizer.apply_chat_template(row[side], tokenize=False)
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
        rewards.append(logits.item())
        print(f"  {side:8}  {row[side][-1]['content']}  reward {rewards[-1]:+.3f}")
    if rewards[0] <= rewards[1]:
        sys.exit("expected the chosen answer to have the higher reward")


if __name__ == "__main__":
    main()
