"""What a trace has counted, as frozen data that is written and read as JSON.

A place is `file:line function`, the file as Python imports it. Bytes of memory are those of the caching allocator,
which rounds each tensor up to 512. A step's phases are `step` (between micro-batches: gradients, messages of the
pipeline), `forward`, `backward`, `optimizer` and `load` (the next step's data); the phase before them is `build`,
and the one behind them `save`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

MICRO_BATCH = ("forward", "backward")
"""Phases of a micro-batch, in which nothing may wait."""


@dataclass(frozen=True)
class Wait:
    """What makes the host wait for the device.

    Args:
        kind: item, tolist, to_cpu, blocking_copy (to the device), unpinned_memory, index_on_cpu, boolean_index,
            shape_by_value, or synchronize.
        places: where, innermost first.
        count: how often in the section.
    """

    kind: str
    phase: str
    places: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Message:
    """A kind of message.

    Args:
        operation: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send, receive or barrier.
        group: Megatron's name of the ranks that take part, as in `nemo_bt.planning.traffic`.
        ranks: their number.
        size: bytes of the whole tensor: what all ranks have after an all_gather, or before a reduce_scatter.
    """

    operation: str
    group: str
    ranks: int
    size: int
    phase: str
    count: int


@dataclass(frozen=True)
class Gemm:
    """A kind of matrix product, [rows, inner] @ [inner, columns]."""

    rows: int
    inner: int
    columns: int
    dtype: str
    phase: str
    count: int


@dataclass(frozen=True)
class Held:
    """Tensors of one kind that were alive when most bytes were.

    Args:
        holder: weights, gradients, optimizer, activations, or what else made them.
        operation: what allocated them.
        place: where, innermost.
    """

    holder: str
    operation: str
    shape: tuple[int, ...]
    dtype: str
    phase: str
    place: str
    count: int
    size: int


@dataclass(frozen=True)
class Section:
    """A part of the run: what came before the first step, one step, or a save.

    Args:
        name: build, the step's number, save, or failed.
        peak: most bytes alive at any time.
        peaks: the same, by phase.
        alive: bytes alive at the end.
        holders: bytes alive at the peak, by what holds them.
        held: the same by kind, the largest first.
        launches: kernels, by name.
        flops: of matrix products and attention, by phase.
        streams: tokens of each micro-batch, with padding.
    """

    name: str
    peak: int
    peaks: Mapping[str, int]
    alive: int
    holders: Mapping[str, int]
    held: tuple[Held, ...]
    waits: tuple[Wait, ...]
    copies: tuple[Wait, ...]
    messages: tuple[Message, ...]
    gemms: tuple[Gemm, ...]
    launches: Mapping[str, int]
    flops: Mapping[str, float]
    streams: tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """What ended the run before its last traced step.

    Args:
        phase: where in the step.
        places: innermost first.
    """

    kind: str
    message: str
    phase: str
    places: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """A trace of one rank.

    Args:
        versions: of what was traced, by package.
        sections: in order: `build`, the steps by their numbers, and `save`, of the weights alone, which writes nothing;
            `failed` is the one in which the run ended by an error.
        failure: None where all steps were made.
    """

    rank: int
    world_size: int
    versions: Mapping[str, str]
    sections: tuple[Section, ...]
    failure: Failure | None = None

    @property
    def build(self) -> Section:
        """What came before the first step."""
        return self.sections[0]

    @property
    def steps(self) -> tuple[Section, ...]:
        """Each step, in order."""
        return tuple(section for section in self.sections if section.name.isdecimal())

    @property
    def peak(self) -> int:
        """Most bytes alive at any time."""
        return max(section.peak for section in self.sections)

    def dumps(self) -> str:
        """Write JSON."""
        return json.dumps(asdict(self), indent=1)


def read_record(path: Path) -> Record:
    """Read what `Record.dumps` wrote."""
    given = json.loads(path.read_text())
    failure = given["failure"]
    return Record(
        given["rank"],
        given["world_size"],
        given["versions"],
        tuple(_section(one) for one in given["sections"]),
        Failure(**failure | {"places": tuple(failure["places"])}) if failure else None,
    )


def _section(given: dict[str, Any]) -> Section:
    waits, copies = (_all(given[name], _wait) for name in ("waits", "copies"))
    return Section(
        **given
        | {
            "held": _all(given["held"], lambda one: Held(**one | {"shape": tuple(one["shape"])})),
            "waits": waits,
            "copies": copies,
            "messages": _all(given["messages"], lambda one: Message(**one)),
            "gemms": _all(given["gemms"], lambda one: Gemm(**one)),
            "streams": tuple(given["streams"]),
        }
    )


def _wait(given: dict[str, Any]) -> Wait:
    return Wait(**given | {"places": tuple(given["places"])})


Kind = TypeVar("Kind")


def _all(given: Sequence[Any], make: Callable[[Any], Kind]) -> tuple[Kind, ...]:
    return tuple(make(one) for one in given)
