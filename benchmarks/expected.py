"""What steps on a GPU should do, from traces, for a GPU's minutes to record differences alone.

python -m benchmarks.expected               # no GPU: writes benchmarks/expected/<run>.json
python -m benchmarks.expected --measure     # on a GPU: trains the same, and prints what differs

A file has the peaks of the second step by phase, in bytes, what has the host wait, kernels by name, sides of matrix
products and FLOPs. A GPU's own workspaces, of cuDNN and torch's cuBLAS, are not among the bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nemo_bt.config.load import dump_settings
from nemo_bt.phantom.record import Record
from nemo_bt.phantom.start import without_weights
from tests.support.phantom import STEPS, settings_of, traced
from tests.support.preferences import write_sets
from tests.support.traced_runs import MORE, QUICK, RECIPES, Traced

FOLDER = Path(__file__).parent / "expected"
RUNS = {
    "llama3_8b_4_layers_bf16": QUICK["bf16"],
    "llama3_8b_4_layers_bf16_recompute": MORE["recompute"],
    "llama3_8b_4_layers_fp8": MORE["FP8 tensorwise"],
    "llama3_8b_lora": RECIPES["one_h100_llama3_1_8b_lora"],
    "llama3_2_1b": RECIPES["one_gpu_llama3_2_1b"],
    "llama3_1_8b": RECIPES["one_h200_llama3_1_8b"],
}
_SYNCHRONIZE = "synchronize"
"""Waits that torch's sync debug mode does not warn of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="train on this machine's GPU, and compare")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="RUN")
    args = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sets(folder / "data")
        for name in args.only:
            if args.measure:
                found = measure(RUNS[name], folder / "data", folder / name)
                print(name, *(differences(expected(name), found[-1]) or ["as expected"]), sep="\n  ")
            else:
                record = traced(RUNS[name], folder / "data", folder / name)
                (FOLDER / f"{name}.json").write_text(json.dumps(of_record(record, RUNS[name]), indent=1) + "\n")
                print(f"wrote {FOLDER / name}.json", flush=True)


def of_record(record: Record, run: Traced) -> dict[str, Any]:
    """Give what is expected of the second step.

    Raises:
        RuntimeError: the traced run failed.
    """
    if record.failure:
        raise RuntimeError(f"{record.failure.kind}: {record.failure.message}")
    step = record.steps[-1]
    return {
        "versions": dict(record.versions),
        "config": run.config,
        "overrides": run.overrides,
        "streams": step.streams,
        "peaks": dict(step.peaks),
        "waits": [[wait.kind, wait.phase, wait.places[0], wait.count] for wait in step.waits],
        "launches": dict(step.launches),
        "flops": dict(step.flops),
        "gemms": [[*asdict(gemm).values()] for gemm in step.gemms],
    }


def expected(name: str) -> dict[str, Any]:
    """Read what is expected of a run."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def measure(run: Traced, dataset: Path, folder: Path) -> list[dict[str, Any]]:
    """Train on this machine's GPU, and give what each step did: `tests.support.measured`.

    Raises:
        RuntimeError: the run failed.
    """
    settings = without_weights(settings_of(run, dataset, folder), folder / "run", STEPS)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "settings.yaml").write_text(dump_settings(settings))
    out = folder / "measured.json"
    command = [sys.executable, "-m", "tests.support.measured", str(folder), str(out), str(STEPS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if result.returncode:
        raise RuntimeError(f"the measured run failed: {result.stderr[-3000:]}")
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def differences(planned: dict[str, Any], found: dict[str, Any], rel: float = 0.03) -> list[str]:
    """Say where a measured step is not what is expected: bytes by phase, and waits by phase and place.

    Args:
        rel: share of the bytes that may differ.
    """
    lines = [
        f"{phase}: expected {size:,} bytes at most, got {found['peaks'].get(phase, 0):,}"
        for phase, size in planned["peaks"].items()
        if abs(found["peaks"].get(phase, 0) - size) > rel * size
    ]
    wanted = Counter({(p, place): n for kind, p, place, n in planned["waits"] if kind != _SYNCHRONIZE})
    seen = Counter({(phase, place): count for phase, place, count in found["waits"]})
    for way, more in (("did not wait", wanted - seen), ("waited", seen - wanted)):
        lines += [f"{phase}: {way} at {place}, {count} times" for (phase, place), count in more.items()]
    return lines


if __name__ == "__main__":
    main()
