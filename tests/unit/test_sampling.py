"""Which pairs a step has: every one once an epoch, prompts whole, from seed and step alone."""

import numpy as np

from nemo_bt.batching.entries import Entries
from nemo_bt.batching.sampling import Epoch, every_pair_once, num_steps, pairs_of_step, validation_batches


def test_epochs_use_every_pair_once_before_any_twice() -> None:
    seen = np.concatenate([pairs_of_step(7, step, 4, every_pair_once(10)) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist() != list(range(10))


def test_the_plan_depends_on_seed_and_step_alone() -> None:
    assert (
        pairs_of_step(7, 3, 8, every_pair_once(100)).tolist() == pairs_of_step(7, 3, 8, every_pair_once(100)).tolist()
    )
    assert (
        pairs_of_step(7, 3, 8, every_pair_once(100)).tolist() != pairs_of_step(8, 3, 8, every_pair_once(100)).tolist()
    )


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert sorted(pairs_of_step(0, 0, 6, every_pair_once(3))) == [0, 0, 1, 1, 2, 2]


def test_steps_of_a_run_are_whole() -> None:
    assert num_steps(10, 4, 1) == 2
    assert num_steps(10, 4, 2) == 5


def test_pairs_of_a_prompt_follow_each_other_across_steps() -> None:
    epoch = Epoch((Entries(100, 12, unit_start_U=np.array([0, 3, 4, 9])),))
    seen = np.concatenate([pairs_of_step(1, step, 4, epoch) for step in range(6)])
    for pass_ in (seen[:12], seen[12:]):
        assert sorted(pass_) == list(range(100, 112))
        for first, last in ((100, 102), (104, 108), (109, 111)):
            place = list(pass_).index(first)
            assert list(pass_[place : place + last - first + 1]) == list(range(first, last + 1))
    assert seen[:12].tolist() != seen[12:].tolist()


def test_an_entry_that_stands_twice_comes_twice() -> None:
    epoch = Epoch((Entries(5, 2), Entries(5, 1)))
    assert sorted(pairs_of_step(0, 0, 3, epoch)) == [5, 5, 6]


def test_validation_takes_every_pair_once() -> None:
    assert [list(batch) for batch in validation_batches(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
