"""Plans: exactly the step's pairs, once each, within the budget, alike on every rank."""

import numpy as np
import pytest

from nemo_bt.packing import PairSizes, num_steps, pair_cost, pairs_of_step, plan_streams, validation_batches


def sizes_of(tokens: list[int]) -> PairSizes:
    return PairSizes(np.array(tokens), np.array(tokens, dtype=np.float64))


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


def test_epochs_use_every_pair_once_before_any_twice() -> None:
    seen = np.concatenate([pairs_of_step(7, step, 4, 10) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist() != list(range(10))


def test_the_plan_depends_on_seed_and_step_alone() -> None:
    assert pairs_of_step(7, 3, 8, 100).tolist() == pairs_of_step(7, 3, 8, 100).tolist()
    assert pairs_of_step(7, 3, 8, 100).tolist() != pairs_of_step(8, 3, 8, 100).tolist()


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert sorted(pairs_of_step(0, 0, 6, 3)) == [0, 0, 1, 1, 2, 2]


def test_steps_of_a_run_are_whole() -> None:
    assert num_steps(10, 4, 1) == 2
    assert num_steps(10, 4, 2) == 5


def test_cost_counts_what_attention_reads() -> None:
    n = [np.array([x]) for x in (8, 4, 4)]
    attended = sum(range(1, 13)) + sum(range(9, 13))
    assert pair_cost(*n, hidden_size=256)[0] == pytest.approx(16 + attended / (6 * 256))


def test_validation_takes_every_pair_once() -> None:
    assert [list(batch) for batch in validation_batches(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
