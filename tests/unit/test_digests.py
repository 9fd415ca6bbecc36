"""Checksums of what ranks hold alike: every bit counts, shares are all of it, and the minority is named."""

import itertools

import pytest
import torch
from torch import Tensor

from nemo_bt.training.callbacks.digests import Difference, Held, Piece, differences, shares, told, who_differs

SIZES = [(7, torch.float32), (130, torch.bfloat16), (1, torch.float32), (1000, torch.float32), (33, torch.uint8)]


def held(tensor: Tensor, name: str = "w", group: int = 0) -> Held:
    return Held(name, tensor.numel(), tensor.element_size(), group, lambda: tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float64])
@pytest.mark.parametrize(("start", "stop"), [(0, 8), (0, 5), (3, 8), (8, 9)])
def test_each_changed_bit_changes_the_checksum(dtype: torch.dtype, start: int, stop: int) -> None:
    words = torch.arange(9 * dtype.itemsize, dtype=torch.uint8) * 7
    piece = Piece(held(words.view(dtype)), start, stop)
    before = piece.checksum()
    assert before.dtype == torch.int64
    for at, bit in itertools.product(range(len(words)), range(8)):
        words[at] ^= 1 << bit
        is_inside = start <= at // dtype.itemsize < stop
        assert (piece.checksum() != before) == is_inside
        words[at] ^= 1 << bit


@pytest.mark.parametrize("count", [1, 2, 3, 10, 400])
def test_shares_have_each_element_once_and_about_as_many_bytes(count: int) -> None:
    tensors = [
        held(torch.zeros(size, dtype=dtype), f"{size}", group)
        for group in (0, 2)
        for size, dtype in SIZES
        if size > group
    ]
    found = shares(tensors, count)
    assert len(found) == count
    pieces = [piece for share in found for piece in share]
    for one in tensors:
        cuts = [(piece.start, piece.stop) for piece in pieces if piece.held is one]
        assert [at for start, stop in cuts for at in range(start, stop)] == list(range(one.num_elements))
    for group in (0, 2):
        inside = [[piece for piece in share if piece.held.group == group] for share in found]
        sizes = [sum((piece.stop - piece.start) * piece.held.element_bytes for piece in share) for share in inside]
        assert max(sizes) - sum(sizes) / count <= 8 * 4  # a cut is off by less than eight elements


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ({0: 5, 1: 6}, ([0, 1], False)),
        ({0: 5, 2: 6, 4: 5}, ([2], True)),
        ({0: 5, 1: 6, 2: 5, 3: 6}, ([0, 1, 2, 3], False)),
        ({0: 1, 1: 2, 2: 3}, ([0, 1, 2], False)),
        ({0: 5, 1: 6, 2: 5, 3: 7, 4: 5}, ([1, 3], True)),
    ],
)
def test_those_that_differ_from_most_are_named(sums: dict[int, int], expected: tuple[list[int], bool]) -> None:
    assert who_differs(sums) == expected


def test_only_ranks_that_hold_the_same_are_compared() -> None:
    """Two by two of group 0, all four of group 1."""
    first = [[0, 0], [1, 0], [0, 0], [1, 0]]
    weight, norm = (0, "weight", 0), (1, "norm", 8)
    sums = [{weight: 1, norm: 3}, {weight: 2, norm: 3}, {weight: 1, norm: 3}, {weight: 2, norm: 3}]
    assert differences(first, sums) == []
    sums[3] = {weight: 9, norm: 4, (1, "norm", 16): 0}
    found = differences(first, sums)
    assert found == [Difference("weight", (1, 3), ()), Difference("norm", (3,), (0, 1, 2))]
    assert told(found, ["a", "a", "b", "b"]) == (
        "ranks 1 (node a), 3 (node b): other bits each, and it is not known which of them is wrong, in weight; "
        "rank 3 (node b): other bits than 3 others, in norm"
    )


def test_a_message_names_few_tensors() -> None:
    found = [Difference(f"w{number}", (1,), (0, 2)) for number in range(6)]
    assert told(found, ["n"] * 3) == "rank 1 (node n): other bits than 2 others, in w0, w1, w2, w3 and 2 more"
