"""Which rows of a stream context-parallel ranks hold."""

import torch

from nemo_bt.batching.context_shards import CHUNKS_PER_RANK, context_shard, stream_multiple


def test_ranks_hold_equal_parts_of_early_and_late_rows() -> None:
    assert [(run.start, run.stop, run.local) for run in context_shard(32, 2, 0).runs] == [
        (0, 2, 0), (6, 10, 2), (14, 18, 6), (22, 26, 10), (30, 32, 14),
    ]  # fmt: skip
    assert [run.local for run in context_shard(32, 2, 1).runs] == [0, 4, 8, 12]
    assert context_shard(32, 2, 1).local(3) == 1
    assert context_shard(32, 2, 1).local(6) is None
    assert CHUNKS_PER_RANK == 8
    assert [stream_multiple(1, 1), stream_multiple(1, 4), stream_multiple(2, 1), stream_multiple(3, 16)] == [
        1,
        4,
        16,
        48,
    ]
    causal = torch.arange(1, 257)
    for num_ranks in (2, 4, 8):
        costs = [
            sum(int(causal[run.start : run.stop].sum()) for run in context_shard(256, num_ranks, rank).runs)
            for rank in range(num_ranks)
        ]
        assert len(set(costs)) == 1
