"""The layout of a stream, token by token."""

import numpy as np
import pytest

from nemo_bt.batching.stream import Comparison, TokenGroup, build_stream, shared_prefix


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_stream_of_a_pair_and_a_ranked_group() -> None:
    pair = TokenGroup(ids(1, 2), (ids(3, 4), ids(5)), (Comparison((1, 0), margin=0.5, weight=2.0, source=1),))
    ranked = TokenGroup(ids(6), (ids(7), ids(8), ids(9, 10)), (Comparison((0, 2)), Comparison((2, 1))))
    stream = build_stream([pair, ranked], pad_id=0)
    assert stream.sides_PK.tolist() == [[1, 0], [2, 4], [4, 3]]
    assert stream.tokens_1T.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert stream.positions_1T.tolist() == [[0, 1, 2, 3, 2, 0, 1, 1, 1, 2]]
    assert stream.segments_C5.tolist() == [
        [0, 2, 2, 4, 1], [0, 2, 4, 5, 1], [5, 6, 6, 7, 1], [5, 6, 7, 8, 1], [5, 6, 8, 10, 2],
    ]  # fmt: skip
    assert stream.tokens_PK.tolist() == [[3, 4], [2, 3], [3, 2]]
    assert stream.margin_P.tolist() == [0.5, 0.0, 0.0]
    assert stream.weight_P.tolist() == [2.0, 1.0, 1.0]
    assert stream.source_P.tolist() == [1, 0, 0]
    assert (stream.num_comparisons, stream.num_real_tokens, pair.num_tokens) == (3, 10, 5)


def test_tokens_of_a_side_do_not_depend_on_what_is_shared() -> None:
    ranked = (Comparison((1, 0, 2)), Comparison((2, 0)))
    shared = TokenGroup(ids(1, 2), (ids(3), ids(4, 5), ids(6)), ranked)
    plain = TokenGroup(ids(), (ids(1, 2, 3), ids(1, 2, 4, 5), ids(1, 2, 6)), ranked)
    for group in (shared, plain):
        assert build_stream([group], pad_id=0).tokens_PK.tolist() == [[4, 3, 3], [3, 3, 0]]


def test_empty_prefix_is_plain_packing() -> None:
    stream = build_stream([TokenGroup(ids(), (ids(1), ids(2, 3)))], pad_id=0)
    assert stream.positions_1T.tolist() == [[0, 0, 1]]
    assert stream.segments_C5.tolist() == [[0, 0, 0, 1, 0], [0, 0, 1, 3, 0]]


def test_length_is_rounded_up_with_filling_that_belongs_to_nothing() -> None:
    stream = build_stream([TokenGroup(ids(1), (ids(2), ids(3)))], pad_id=9, multiple_of=4)
    assert stream.tokens_1T.tolist() == [[1, 2, 3, 9]]
    assert stream.segments_C5[-1].tolist() == [0, 1, 2, 3, 0]
    assert stream.num_real_tokens == 3


def test_a_rank_without_pairs_gets_a_stream_worth_nothing() -> None:
    stream = build_stream([], pad_id=9, multiple_of=2)
    assert stream.tokens_1T.tolist() == [[9, 9]]
    assert (stream.num_comparisons, len(stream.segments_C5), stream.num_real_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [((1, 2, 3, 4), (1, 2, 5), 2), ((1, 2), (1, 2, 3), 1), ((1,), (1,), 0), ((1, 2), (3, 4), 0), ((1, 2), (1, 3), 1)],
)
def test_shared_prefix_leaves_both_sides_a_token_to_score(
    chosen: tuple[int, ...], rejected: tuple[int, ...], shared: int
) -> None:
    assert shared_prefix(ids(*chosen), ids(*rejected)) == shared
