"""Plans: exactly the step's pairs, once each, within the budget, alike on every rank."""

import numpy as np
import pytest

from nemo_bt.batching.packing import PairParts, PairSizes, group_pairs, plan_streams


def sizes_of(tokens: list[int]) -> PairSizes:
    none = np.zeros(len(tokens), dtype=np.int64)
    return PairSizes(np.array(tokens), attended=none, hidden_size=256, continuations=none + 2)


def random_sizes(seed: int, num_pairs: int = 64) -> PairSizes:
    return sizes_of(np.random.default_rng(seed).integers(10, 900, num_pairs).tolist())


@pytest.mark.parametrize("data_parallel_size", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [900, 2048, 100_000])
def test_every_pair_is_in_exactly_one_stream_within_budget(data_parallel_size: int, budget: int) -> None:
    for seed in range(5):
        sizes = random_sizes(seed)
        ranks = plan_streams(sizes, budget, data_parallel_size)
        assert len({len(streams) for streams in ranks}) == 1
        assert sorted(pair for streams in ranks for stream in streams for pair in stream) == list(range(64))
        assert max(sizes.tokens[stream].sum() for streams in ranks for stream in streams) <= budget


def test_an_interleaved_pipeline_gets_multiples_of_its_stages() -> None:
    ranks = plan_streams(random_sizes(0), 2048, 2, multiple_of=4)
    fewest = -(-int(random_sizes(0).tokens.sum()) // 2048)
    assert [len(streams) for streams in ranks] == [-(-fewest // 8) * 4] * 2
    assert fewest % 8
    assert sorted(pair for streams in ranks for stream in streams for pair in stream) == list(range(64))


def test_streams_are_as_few_as_the_tokens_allow() -> None:
    sizes = random_sizes(0)
    (streams,) = plan_streams(sizes, 4096, 1)
    assert len(streams) == -(-int(sizes.tokens.sum()) // 4096)


def test_best_fit_finds_room_where_balancing_does_not() -> None:
    # 6+4 and 5+5: the least-loaded rule puts the 4 beside a 5 and has no room for the other.
    assert sorted(map(sorted, plan_streams(sizes_of([6, 5, 5, 4]), 10, 1)[0])) == [[0, 3], [1, 2]]


def test_ranks_finish_together() -> None:
    loads = [
        sum(random_sizes(1, 512).cost[stream].sum() for stream in rank)
        for rank in plan_streams(random_sizes(1, 512), 4096, 8)
    ]
    assert max(loads) / np.mean(loads) < 1.02


def test_fewer_pairs_than_ranks_leave_empty_streams() -> None:
    assert sorted(map(len, (streams[0] for streams in plan_streams(sizes_of([5]), 10, 3)))) == [0, 0, 1]


def parts_of(
    prompts: list[int], prefix: list[int], starts: list[tuple[int, int]], tokens: list[tuple[int, int]]
) -> PairParts:
    return PairParts(*(np.array(values) for values in (prompts, prefix, starts, tokens)))


def test_cost_counts_what_attention_reads() -> None:
    _, sizes = group_pairs(parts_of([0], [8], [(8, 12)], [(4, 4)]), 100, hidden_size=256)
    attended = sum(range(1, 13)) + sum(range(9, 13))
    assert sizes.cost[0] == pytest.approx(16 + attended / (6 * 256))


ALL_PAIRS_OF_FOUR = [(10, 20), (10, 30), (10, 40), (20, 30), (20, 40), (30, 40)]


def test_pairs_of_a_prompt_cost_it_once_and_each_response_once() -> None:
    parts = parts_of([7] * 6 + [8], [100] * 6 + [5], [*ALL_PAIRS_OF_FOUR, (200, 300)], [(10, 10)] * 6 + [(3, 4)])
    groups, sizes = group_pairs(parts, 1000, hidden_size=256)
    assert groups == [[0, 1, 2, 3, 4, 5], [6]]
    assert sizes.tokens.tolist() == [100 + 4 * 10, 5 + 3 + 4]
    attended = sum(range(1, 101)) + 4 * sum(range(101, 111))
    assert sizes.cost[0] == pytest.approx(140 + attended / (6 * 256))


def test_a_bundle_longer_than_a_stream_becomes_several() -> None:
    parts = parts_of([7] * 6, [100] * 6, ALL_PAIRS_OF_FOUR, [(10, 10)] * 6)
    groups, sizes = group_pairs(parts, 130, hidden_size=256)
    assert sorted(pair for group in groups for pair in group) == list(range(6))
    assert sizes.tokens.max() <= 130
    assert len(groups) < 6


def test_pairs_of_different_prompts_are_not_put_together() -> None:
    groups, sizes = group_pairs(parts_of([0, 1], [4, 4], [(1, 2), (1, 2)], [(5, 6), (5, 6)]), 100, hidden_size=256)
    assert groups == [[0], [1]]
    assert sizes.tokens.tolist() == [15, 15]
