"""`make quickstart`: write a small preference set and train a reward model on it, as a user would."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from nemo_bt import cli
from nemo_bt.data.synthetic import write_dataset

EXPECTED_ACCURACY = 0.95


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write data and the run to")
    folder = parser.parse_args().output
    data, run = folder / "data", folder / "run"
    for old in (data, run):
        if old.exists():
            shutil.rmtree(old)
    write_dataset(data)
    argv = [
        "train",
        "--config-name=quickstart",
        f"exp_manager.explicit_log_dir={run}",
        f"model.data.train={data / 'train.parquet'}",
        f"+model.data.validation.held_out={data / 'validation.parquet'}",
        f"model.tokenizer.type={data / 'tokenizer'}",
    ]
    print("nemo-bt " + " ".join(argv), flush=True)
    status = cli.run(argv)
    if status:
        sys.exit(status)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    if last["val/held_out/accuracy"] < EXPECTED_ACCURACY:
        sys.exit(f"expected a held-out accuracy of {EXPECTED_ACCURACY}, got {last['val/held_out/accuracy']:.4f}")


if __name__ == "__main__":
    main()
