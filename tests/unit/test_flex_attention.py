"""What FlexAttention is given for a stream, computed by torch's dense definition of it; tests/gpu compares kernels."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from nemo_bt.batching.context_shards import context_shard
from nemo_bt.model.attention.blocked import blocked_attention
from nemo_bt.model.attention.flex import segment_flex_attention, visible
from nemo_bt.model.attention.segments import AttentionRule, scored_here
from tests.support.attention import (
    ALL,
    HEADS,
    NUM_FILLED,
    NUM_TOKENS,
    RULES,
    SEGMENTS,
    SIZE,
    check_equal,
    dense,
    dense_flex,
    inputs,
)

ON_CPU = torch.device("cpu")
LONG = torch.tensor(
    [[0, 200, 200, 650, 1], [0, 200, 650, 1100, 1], [1100, 1100, 1100, 1101, 1], [1101, 1400, 1400, 1403, 1]],
    dtype=torch.int32,
)
"""Longer than blocks of keys, which it fills, crosses and shares; 37 rows of padding follow."""
LONG_TOKENS = 1440


@pytest.mark.parametrize("name", RULES)
def test_results_and_gradients_are_those_of_a_dense_mask(name: str) -> None:
    tensors, grad = inputs()
    got = segment_flex_attention(*tensors, SEGMENTS, RULES[name], ALL, dense_flex)
    assert not got[NUM_FILLED:].any()
    check_equal(got[:NUM_FILLED], dense(*tensors, RULES[name]), tensors, grad)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("only_scored", [False, True])
@pytest.mark.parametrize("name", ["softcap", "window and softcap"])
def test_ranks_that_hold_parts_of_a_stream_give_what_attention_in_blocks_gives(
    name: str, only_scored: bool, num_ranks: int
) -> None:
    (query, key, value), _ = inputs()
    rule = replace(RULES[name], only_scored=only_scored)
    for rank in range(num_ranks):
        shard = context_shard(NUM_TOKENS, num_ranks, rank)
        rows = torch.cat([torch.arange(run.start, run.stop) for run in shard.runs])
        own = query.detach()[rows].requires_grad_()
        expected = blocked_attention(own, key, value, SEGMENTS, rule, shard)
        got = segment_flex_attention(own, key, value, SEGMENTS, rule, shard, dense_flex)
        check_equal(got, expected, [own, key, value], torch.randn(expected.shape))


@pytest.mark.parametrize("only_scored", [False, True])
def test_a_stream_of_filling_alone_gives_zeros_and_zero_gradients(only_scored: bool) -> None:
    tensors, _ = inputs()
    rule = replace(RULES["softcap"], only_scored=only_scored)
    got = segment_flex_attention(*tensors, SEGMENTS[:0], rule, ALL, dense_flex)
    assert got.shape == (0 if only_scored else NUM_TOKENS, HEADS, SIZE)
    assert not got.any()
    assert not any(x.any() for x in torch.autograd.grad(got.sum(), tensors))


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("only_scored", [False, True])
@pytest.mark.parametrize("window", [0, 1, 130, 300])
def test_blocks_are_those_that_torch_finds_by_asking_for_every_key(
    window: int, only_scored: bool, num_ranks: int
) -> None:
    rule = AttentionRule(0.3, window=window, only_scored=only_scored)
    shard = context_shard(LONG_TOKENS, num_ranks, num_ranks - 1)
    found = visible(LONG, rule, shard, LONG_TOKENS // num_ranks, LONG_TOKENS, ON_CPU)
    assert found is visible(LONG.clone(), rule, shard, LONG_TOKENS // num_ranks, LONG_TOKENS, ON_CPU)
    num_rows, _ = found.mask.seq_lengths
    expected = create_block_mask(found.mask.mask_mod, None, None, num_rows, LONG_TOKENS, device="cpu")
    for part in ("kv", "full_kv", "q", "full_q"):
        counts, others = (getattr(mask, f"{part}_num_blocks")[0, 0] for mask in (found.mask, expected))
        assert counts.tolist() == others.tolist()
        numbers, others = (getattr(mask, f"{part}_indices")[0, 0] for mask in (found.mask, expected))
        for count, row, other in zip(counts.tolist(), numbers.tolist(), others.tolist(), strict=True):
            assert row[:count] == other[:count]
    if not (window or only_scored):
        assert found.mask.full_kv_num_blocks.sum() > 0


def test_scored_rows_fill_two_blocks_and_the_rest_of_them_see_nothing() -> None:
    rule = AttentionRule(0.3, only_scored=True)
    found = visible(LONG, rule, context_shard(LONG_TOKENS), LONG_TOKENS, LONG_TOKENS, ON_CPU)
    _, rows = scored_here(LONG, context_shard(LONG_TOKENS))
    assert found.query_rows_Q is not None
    assert found.query_rows_Q[:5].tolist() == [*rows, 0] == [649, 1099, 1100, 1402, 0]
    assert len(found.query_rows_Q) == 256
    assert found.mask.kv_num_blocks[0, 0, 1] == found.mask.full_kv_num_blocks[0, 0, 1] == 0


def test_masks_found_in_a_validation_serve_training() -> None:
    with torch.inference_mode():
        found = visible(LONG[:3], AttentionRule(0.3), context_shard(1152), 1152, 1152, ON_CPU)
    assert not found.mask.kv_indices.is_inference()
