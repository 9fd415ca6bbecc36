"""The bar over bytes that a conversion shows, and the table at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.convert import AsHf
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.pretrained.source import TensorInfo


@contextmanager
def megabytes(terminal: Terminal, infos: dict[str, TensorInfo]) -> Iterator[Callable[[int], None]]:
    """Show a bar over the data of `infos`, and give a function that takes the bytes done since its last call."""
    total_mb = sum(info.num_bytes for info in infos.values()) // 10**6
    done_bytes = 0
    terminal.start(0, total_mb, "MB")

    def add(num_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += num_bytes
        terminal.advance(done_bytes // 10**6, "")

    try:
        yield add
    finally:
        terminal.stop()


def summary(initial: InitialWeights, target: Path, check: str) -> list[tuple[str, str]]:
    """Give name and value of each line of the table."""
    pretrained = initial.pretrained
    # AsHf leaves out the rows that Megatron's embedding is padded with.
    infos = AsHf(initial.source, pretrained.architecture).infos.values()
    return [
        ("architecture", pretrained.hf_config["model_type"]),
        ("parameters", f"{sum(info.num_elements for info in infos):,}"),
        ("weights", f"{sum(info.num_bytes for info in infos) / 1e6:,.1f} MB, {_dtypes(initial)}"),
        ("head", initial.head),
        ("rewards", check),
        ("written", str(target)),
    ]


def _dtypes(initial: InitialWeights) -> str:
    return ", ".join(sorted({str(info.dtype).removeprefix("torch.") for info in initial.source.infos.values()}))
