"""What happens on the device while a run goes on; a section of it is closed into a `Section` of the record.

Each tensor's bytes come and go as events, so that what was alive at the peak is known afterwards, exactly.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from nemo_bt.phantom.places import places
from nemo_bt.phantom.record import MICRO_BATCH, Gemm, Held, Message, Section, Wait

_ALLOCATED_BYTES = 512
"""Multiple of bytes that torch's caching allocator gives away."""
_TOLD_KINDS = 40
_DRAINS = ("item", "synchronize", "to_cpu", "tolist")
"""Kinds of waiting after which nothing is left on the device that was asked for before."""


@dataclass(slots=True)
class Block:
    """Bytes of one tensor's storage."""

    operation: str
    shape: tuple[int, ...]
    dtype: str
    phase: str
    place: str
    size: int
    holder: str | None = None


class Ledger:
    """Counts of the section that is open.

    Attributes:
        alive: bytes alive.
        peak: most bytes alive since the run began.
        peak_since: the same since `reset_peak`.
        num_drained: how often the host has waited for all that it had asked of the device.
    """

    def __init__(self) -> None:
        self._phase = "build"
        self.alive = self.peak = self.peak_since = self.num_drained = 0
        self._blocks: dict[int, Block] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._opened: dict[int, Block] = {}
        self._inside: list[tuple[Any, Block]] | None = None
        self._clear()

    @property
    def phase(self) -> str:
        """Part of the step that goes on."""
        return self._phase

    @phase.setter
    def phase(self, name: str) -> None:
        self._phase = name
        self._peaks[name] = max(self._peaks.get(name, 0), self.alive)

    def reset_peak(self) -> None:
        """Begin `peak_since` anew, as torch's statistics do."""
        self.peak_since = self.alive

    def _clear(self) -> None:
        """Open a section."""
        self._opened = dict(self._blocks)
        self._events: list[tuple[int, Block, bool]] = []
        self._peaks: dict[str, int] = {}
        self._waits: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
        self._copies: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
        self._messages: Counter[tuple[str, tuple[int, ...], int, str]] = Counter()
        self._gemms: Counter[tuple[int, int, int, str, str]] = Counter()
        self._launches: Counter[str] = Counter()
        self._flops: defaultdict[str, float] = defaultdict(float)

    def allocated(self, tensor: torch.Tensor, operation: str) -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._blocks:
            return
        size = -(-storage.nbytes() // _ALLOCATED_BYTES) * _ALLOCATED_BYTES
        place = next(iter(places(1)), "")
        block = Block(operation, tuple(tensor.shape), _name(tensor.dtype), self.phase, place, size)
        if self._inside is None:
            self._add(storage, block)
        else:
            self._inside.append((weakref.ref(storage), block))

    def _add(self, storage: torch.UntypedStorage, block: Block) -> None:
        key = storage._cdata
        self._blocks[key] = block
        self._events.append((key, block, True))
        self.alive += block.size
        self.peak = max(self.peak, self.alive)
        self.peak_since = max(self.peak_since, self.alive)
        self._peaks[self.phase] = max(self._peaks.get(self.phase, 0), self.alive)
        weakref.finalize(storage, self._freed, key).atexit = False

    @contextmanager
    def one_kernel(self, name: str) -> Iterator[None]:
        """Count what happens inside as one kernel: of its tensors those that are alive at its end."""
        if self._inside is not None:
            yield
            return
        self.launched(name)
        made: list[tuple[Any, Block]] = []
        self._inside = made
        try:
            yield
        finally:
            self._inside = None
            for storage_ref, block in made:
                storage = storage_ref()
                if storage is not None and storage._cdata not in self._blocks:
                    self._add(storage, block)

    def _freed(self, key: int) -> None:
        block = self._blocks.pop(key, None)
        self._values.pop(key, None)
        if block is not None:
            self._events.append((key, block, False))
            self.alive -= block.size

    def remember(self, tensor: torch.Tensor, values: torch.Tensor) -> None:
        """Keep the values that a small tensor of integers came to the device with."""
        self._values[tensor.untyped_storage()._cdata] = values

    def values_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Give the values that a tensor came to the device with, where they are kept."""
        return self._values.get(tensor.untyped_storage()._cdata)

    def held_by(self, holder: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say what holds tensors, from when they were allocated on."""
        for tensor in tensors:
            block = self._blocks.get(tensor.untyped_storage()._cdata)
            if block is not None:
                block.holder = holder

    def keep(self) -> None:
        """Say of what is left of micro-batches that it is kept from one step to the next."""
        for block in self._blocks.values():
            if block.phase in MICRO_BATCH:
                block.holder = block.holder or "kept between steps"

    def waited(self, kind: str, count: int = 1) -> None:
        """Count something for which the host waits, here."""
        self.num_drained += kind in _DRAINS
        self._waits[kind, self.phase, places()] += count

    def copied(self, kind: str) -> None:
        """Count a copy between host and device, here."""
        self._copies[kind, self.phase, places()] += 1

    def launched(self, kernel: str) -> None:
        """Count a kernel."""
        if self._inside is None:
            self._launches[kernel] += 1

    def multiplied(self, rows: int, inner: int, columns: int, dtype: str, batch: int = 1) -> None:
        """Count a matrix product, or `batch` of them."""
        self._gemms[rows, inner, columns, dtype, self.phase] += batch
        self.computed(2.0 * rows * inner * columns * batch)

    def computed(self, flops: float) -> None:
        """Count floating-point operations."""
        self._flops[self.phase] += flops

    def sent(self, operation: str, ranks: tuple[int, ...], size: int) -> None:
        """Count a message."""
        self._messages[operation, ranks, size, self.phase] += 1

    def close(self, name: str, groups: dict[tuple[int, ...], str], streams: Iterable[int] = ()) -> Section:
        """Close the section, and open the next.

        Args:
            groups: names of groups by their ranks.
        """
        peak, blocks = self._at_peak()
        held: Counter[tuple[str, str, tuple[int, ...], str, str, str]] = Counter()
        sizes: Counter[tuple[str, str, tuple[int, ...], str, str, str]] = Counter()
        holders: Counter[str] = Counter()
        for block in blocks:
            kind = (_holder(block), block.operation, block.shape, block.dtype, block.phase, block.place)
            held[kind] += 1
            sizes[kind] += block.size
            holders[kind[0]] += block.size
        section = Section(
            name=name,
            peak=peak,
            peaks=dict(self._peaks),
            alive=self.alive,
            holders=dict(holders.most_common()),
            held=tuple(Held(*kind, held[kind], size) for kind, size in sizes.most_common(_TOLD_KINDS)),
            waits=tuple(Wait(*kind, count) for kind, count in self._waits.items()),
            copies=tuple(Wait(*kind, count) for kind, count in self._copies.items()),
            messages=tuple(
                Message(operation, groups.get(ranks, "others"), len(ranks), size, phase, count)
                for (operation, ranks, size, phase), count in self._messages.items()
            ),
            gemms=tuple(Gemm(*kind, count) for kind, count in self._gemms.items()),
            launches=dict(self._launches.most_common()),
            flops=dict(self._flops),
            streams=tuple(streams),
        )
        self._clear()
        return section

    def _at_peak(self) -> tuple[int, list[Block]]:
        """Replay the section's events, and give the most bytes alive with what they were."""
        alive = most = sum(block.size for block in self._opened.values())
        most_at = 0
        for number, (_, block, is_new) in enumerate(self._events, start=1):
            alive += block.size if is_new else -block.size
            if alive > most:
                most, most_at = alive, number
        blocks = dict(self._opened)
        for key, block, is_new in self._events[:most_at]:
            if is_new:
                blocks[key] = block
            else:
                blocks.pop(key, None)
        return most, list(blocks.values())


def _holder(block: Block) -> str:
    return block.holder or ("activations" if block.phase in MICRO_BATCH else f"made in {block.phase}")


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
