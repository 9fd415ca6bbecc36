"""What a trace is to do, as a process of its own is told it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """The GPU that is stood for.

    Args:
        capability: compute capability.
        num_sms: streaming multiprocessors.
        cuda: version of CUDA that torch says it was built for.
        cudnn: version of cuDNN that torch says it found, 92000 for 9.20.0.
    """

    name: str = "NVIDIA H200"
    capability: tuple[int, int] = (9, 0)
    memory_bytes: int = 141 * 10**9
    num_sms: int = 132
    cuda: str = "13.0"
    cudnn: int = 92000


@dataclass(frozen=True)
class Spec:
    """A trace of one rank.

    Args:
        library: the device, from `nemo_bt.phantom.build`.
        transformer_engine: folder of its package, from `nemo_bt.phantom.wheel`.
        settings: folder with settings.yaml, of a run without weights unless it has numbers.
        rank: of the whole job.
        steps: optimizer steps.
        record: file that is written.
        gpu: that is stood for.
        numbers: whether tensors have values too; of a job of one rank, from the weights of the settings.
    """

    library: str
    transformer_engine: str
    settings: str
    rank: int
    steps: int
    record: str
    gpu: Gpu = Gpu()
    numbers: bool = False


def write_spec(spec: Spec, path: Path) -> None:
    """Write JSON."""
    path.write_text(json.dumps(asdict(spec)))


def read_spec(path: Path) -> Spec:
    """Read what `write_spec` wrote."""
    given: dict[str, Any] = json.loads(path.read_text())
    gpu = given.pop("gpu")
    return Spec(**given, gpu=Gpu(**gpu | {"capability": tuple(gpu["capability"])}))
