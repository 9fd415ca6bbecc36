"""Files of the figures of benchmarks: `benchmarks/results/<benchmark>-<host kind>-<date>.json`."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "nemo_toolkit",
    "megatron-core",
    "transformers",
    "tokenizers",
    "pyarrow",
    "safetensors",
    "trl",
    "accelerate",
    "transformer-engine",
)


@dataclass(frozen=True)
class Figure:
    """One measured number, with `min` and `max` over repetitions; without repetitions they equal `value`."""

    name: str
    value: float
    unit: str
    min: float
    max: float
    target: float | None = None


def write_results(
    benchmark: str, host_kind: str, command: str, figures: list[Figure], device: dict[str, str] | None = None
) -> Path:
    """Write and print the figures.

    Args:
        benchmark: first part of the figures' names.
        host_kind: kind of the machine, such as cpu2.
        command: command that measures them, without folders of this machine.
        figures: figures with names `benchmark/case/figure`.
        device: facts about the GPU, with its clocks.
    """
    path = RESULTS / f"{benchmark}-{host_kind}-{date.today():%Y%m%d}.json"
    write_figures(path, command, figures, device)
    for figure in figures:
        spread = "" if figure.min == figure.max else f" ({figure.min:.3g} to {figure.max:.3g})"
        target = "" if figure.target is None else f", target {figure.target:g}"
        print(f"{figure.name}: {figure.value:.3g} {figure.unit}{spread}{target}")
    return path


def write_figures(path: Path, command: str, figures: list[Figure], device: dict[str, str] | None = None) -> None:
    """Write a file of figures, with the command and the versions of packages; see `write_results`."""
    path.parent.mkdir(exist_ok=True)
    record = {
        "versions": _versions(),
        **({"device": device} if device else {}),
        "command": command,
        "figures": [asdict(figure) for figure in figures],
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def _versions() -> dict[str, str]:
    """Give the versions of the installed packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
