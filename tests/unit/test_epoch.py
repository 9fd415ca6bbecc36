"""Epochs of repeated, drawn and cut sources against lists that are written out."""

from collections import Counter

import numpy as np
import pytest

from nemo_bt.batching import sampling
from nemo_bt.batching.sampling import Epoch, pairs_of_step
from nemo_bt.data.store import mixture
from nemo_bt.data.store.mixture import entries_of, make_epoch

NONE = np.empty(0, dtype=np.int64)


def steps(epoch: Epoch, size: int, num_epochs: int = 1, seed: int = 7) -> list[int]:
    num = -(-len(epoch) * num_epochs // size)
    return np.concatenate([pairs_of_step(seed, step, size, epoch) for step in range(num)]).tolist()


@pytest.mark.parametrize(("num_prompts", "size"), [(1, 1), (200, 1), (200, 7), (3_000, 64), (3_000, 5_000)])
def test_prompts_stay_whole_in_an_epoch_of_many(num_prompts: int, size: int) -> None:
    random = np.random.default_rng(num_prompts)
    prompt = np.repeat(np.arange(num_prompts), random.integers(1, 9, num_prompts))
    left_out = np.flatnonzero(random.random(len(prompt)) < 0.1)
    kept = np.delete(np.arange(len(prompt)), left_out)
    epoch = make_epoch([entries_of(50, prompt, left_out)], [len(kept)], seed=1)
    assert (epoch.all_pairs() - 50).tolist() == kept.tolist()
    found = np.array(steps(epoch, size))[: len(kept)] - 50
    assert sorted(found.tolist()) == kept.tolist()
    groups = [prompt[found[start]] for start in np.flatnonzero(np.diff(prompt[found], prepend=-1))]
    assert len(groups) == len(set(groups)) == len(set(prompt[kept]))
    for start in np.flatnonzero(np.diff(prompt[found], prepend=-1)):
        same = kept[prompt[kept] == prompt[found[start]]]
        assert found[start : start + len(same)].tolist() == same.tolist()
    if num_prompts > 1:
        assert groups != sorted(groups)


def test_units_are_found_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    prompt = np.repeat(np.arange(300), random.integers(1, 6, 300))
    left_out = np.flatnonzero(random.random(len(prompt)) < 0.3)
    whole = entries_of(0, prompt, left_out).unit_start_U
    monkeypatch.setattr(mixture, "_BLOCK_PAIRS", 10)
    assert entries_of(0, prompt, left_out).unit_start_U.tolist() == whole.tolist()
    assert whole.tolist() == np.flatnonzero(np.diff(np.delete(prompt, left_out), prepend=-1)).tolist()


def test_a_part_is_drawn_evenly_and_keeps_what_is_left_of_prompts_together() -> None:
    prompt = np.repeat(np.arange(40), 3)
    left_out = np.array([0, 5, 119])
    drawn: Counter[int] = Counter()
    for seed in range(300):
        epoch = make_epoch([entries_of(0, prompt, left_out)], [39], seed=seed)
        pairs = epoch.all_pairs()
        drawn.update(pairs.tolist())
        assert pairs.tolist() == sorted(set(pairs.tolist()))
        assert epoch.num_units == len(set(prompt[pairs]))
    assert sorted(drawn) == np.delete(np.arange(120), left_out).tolist()
    assert all(60 < count < 140 for count in drawn.values())  # 100 of 300, with a deviation of 8


def test_an_epoch_holds_nothing_as_long_as_the_data() -> None:
    epoch = make_epoch([entries_of(0, np.arange(4_000_000), NONE)], [12_000_000], seed=1)
    pairs_of_step(1, 5, 64, epoch)
    assert len(epoch) == 12_000_000
    arrays = [value for part in epoch.parts for value in vars(part).values() if isinstance(value, np.ndarray)]
    assert sum(map(len, arrays)) == 0


def test_sources_that_are_repeated_drawn_and_cut_come_as_often_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_BLOCK_UNITS", 2 * sampling._RUN_UNITS)  # an epoch has many blocks of units
    monkeypatch.setattr(mixture, "_BLOCK_PAIRS", 50)
    random = np.random.default_rng(5)
    prompts = [np.repeat(np.arange(num), random.integers(1, 4, num)) for num in (700, 90, 400)]
    left_out = [NONE, np.arange(40, 110), np.flatnonzero(random.random(len(prompts[2])) < 0.2)]  # a whole block of one
    firsts = np.cumsum([0, *map(len, prompts)]).tolist()
    sources = [entries_of(*one) for one in zip(firsts[:-1], prompts, left_out, strict=True)]
    wanted = [2 * len(sources[0]), len(sources[1]) // 2, 3 * len(sources[2]) + 17]
    epoch = make_epoch(sources, wanted, seed=4)
    assert len(epoch) == sum(wanted)
    assert epoch.num_units > 4 * sampling._RUN_UNITS
    for size in (37, 2 * len(epoch) + 5):
        seen = np.array(steps(epoch, size, num_epochs=2))[: 2 * len(epoch)]
        for one_pass in np.split(seen, 2):
            assert sorted(one_pass.tolist()) == sorted(epoch.all_pairs().tolist())
            start, count = epoch.units_at(np.arange(epoch.num_units))
            units = [
                epoch.pairs_at(range(s, s + n)).tolist() for s, n in zip(start.tolist(), count.tolist(), strict=True)
            ]
            expected = Counter(map(tuple, units))
            place = 0
            while place < len(one_pass):  # units of a pair begin with different pairs, or are the same
                found = max((unit for unit in expected if unit[0] == one_pass[place] and expected[unit]), key=len)
                if tuple(one_pass[place : place + len(found)]) != found:
                    found = next(u for u in expected if tuple(one_pass[place : place + len(u)]) == u and expected[u])
                expected[found] -= 1
                place += len(found)
            assert not any(expected.values())
    counts = np.bincount(epoch.all_pairs(), minlength=firsts[-1])
    assert set(counts[: firsts[1]].tolist()) == {2}
    assert set(counts[firsts[2] :][left_out[2]].tolist()) == {0}
    assert not counts[firsts[1] :][left_out[1]].any()
