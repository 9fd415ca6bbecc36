"""Checksums of what several ranks hold alike, a share of it in each step. It imports nothing of NeMo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
_ALIGNED = 8
"""Tensors are cut at multiples of so many elements, so that most pieces can be read as int64."""
_NAMED = 4
"""Tensors that a message names at most, of each rank."""


@dataclass(frozen=True)
class Held:
    """A tensor of this rank that other ranks hold with the same bits.

    Args:
        name: what it is, for a person.
        num_elements: number of its elements.
        element_bytes: bytes of one.
        group: number of the group of ranks that hold it.
        read: gives it as it is now, of any shape; contiguous.
    """

    name: str
    num_elements: int
    element_bytes: int
    group: int
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a tensor."""

    held: Held
    start: int
    stop: int

    def checksum(self) -> Tensor:
        """Give the sum of its bytes, read as the widest integers that they fill: int64, a scalar on its device.

        The sum wraps, so one changed bit always changes it.
        """
        flat = self.held.read().detach().view(-1)[self.start : self.stop]
        size, offset = flat.nbytes, flat.storage_offset() * flat.element_size()
        word = next(word for width, word in _WORDS.items() if size % width == 0 and offset % width == 0)
        # A sum in another dtype would copy the piece to it first.
        return flat.view(word).sum(dtype=word).to(torch.int64)


def shares(tensors: Sequence[Held], count: int) -> list[list[Piece]]:
    """Cut tensors into `count` shares of about as many bytes of each group; together they are all of them."""
    found: list[list[Piece]] = [[] for _ in range(count)]
    for group in sorted({held.group for held in tensors}):
        inside = [held for held in tensors if held.group == group]
        total = sum(held.num_elements * held.element_bytes for held in inside)
        before = 0
        for held in inside:
            size = held.num_elements * held.element_bytes
            first = before * count // total
            last = min((before + size) * count // total, count - 1)
            cuts = [_cut(held, share * total / count - before) for share in range(first, last + 2)]
            cuts[0], cuts[-1] = 0, held.num_elements
            for share, start, stop in zip(range(first, last + 1), cuts, cuts[1:], strict=False):
                if start < stop:
                    found[share].append(Piece(held, start, stop))
            before += size
    return found


def _cut(held: Held, at_bytes: float) -> int:
    """Give the element at which a tensor is cut."""
    elements = int(at_bytes // held.element_bytes) // _ALIGNED * _ALIGNED
    return min(max(elements, 0), held.num_elements)


def who_differs(sums: Mapping[int, int]) -> tuple[list[int], bool]:
    """Name the ranks whose checksum is not that of more than half of them, and tell that it is so.

    Where no checksum is that of more than half, as of two ranks that differ, all are named, and it is not known which
    of them is wrong.
    """
    most, count = Counter(sums.values()).most_common(1)[0]
    if 2 * count <= len(sums):
        return sorted(sums), False
    return sorted(rank for rank, found in sums.items() if found != most), True


Sums = Mapping[tuple[int, str, int], int]
"""Checksums of a rank's pieces, by group, name of the tensor and first element."""


@dataclass(frozen=True)
class Difference:
    """A tensor of which ranks hold other bits.

    Args:
        name: what it is.
        ranks: those whose bits differ from what most hold; all that hold it where none are most.
        others: those that agree; none where it is not known who is right.
    """

    name: str
    ranks: tuple[int, ...]
    others: tuple[int, ...]


def differences(first: Sequence[Sequence[int]], sums: Sequence[Sums]) -> list[Difference]:
    """Find the tensors that ranks should hold alike and do not, each once.

    Args:
        first: of each rank and group, the first rank that holds the same.
        sums: checksums of each rank.
    """
    found: dict[Difference, None] = {}
    for piece in dict.fromkeys(key for one in sums for key in one):
        group, name, _ = piece
        holders: dict[int, dict[int, int]] = {}
        for rank, one in enumerate(sums):
            if piece in one:
                holders.setdefault(first[rank][group], {})[rank] = one[piece]
        for of_ranks in holders.values():
            if len(set(of_ranks.values())) > 1:
                ranks, is_known = who_differs(of_ranks)
                others = tuple(rank for rank in of_ranks if rank not in ranks)
                found[Difference(name, tuple(ranks), others if is_known else ())] = None
    return list(found)


def told(found: Sequence[Difference], nodes: Sequence[str]) -> str:
    """Say who holds what other bits; `nodes` has the node of each rank."""
    parts = []
    for ranks, others in dict.fromkeys((one.ranks, one.others) for one in found):
        names = [one.name for one in found if (one.ranks, one.others) == (ranks, others)]
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        who = ", ".join(f"{rank} (node {nodes[rank]})" for rank in ranks)
        one = "rank" if len(ranks) == 1 else "ranks"
        than = f"than {len(others)} others" if others else "each, and it is not known which of them is wrong"
        parts.append(f"{one} {who}: other bits {than}, in {shown}")
    return "; ".join(parts)
