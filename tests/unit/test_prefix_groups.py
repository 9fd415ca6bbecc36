"""Conversations that begin alike are put together, and nothing is lost."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_bt.batching.prefix_groups import as_groups, share_prefixes, sizes_of
from nemo_bt.batching.stream import Ids

BUDGET = 200


def ids_of(*parts: list[int]) -> Ids:
    return np.array([token for part in parts for token in part], dtype=np.int32)


def saved(groups: list[tuple[list[int], int]]) -> int:
    return sum((len(members) - 1) * prefix for members, prefix in groups)


@st.composite
def conversations(draw: st.DrawFn) -> list[Ids]:
    """Walks through a tree of common starts, no two the same."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    starts = [[rng.randrange(5) for _ in range(rng.choice([3, 20, 40]))] for _ in range(3)]
    starts += [[*starts[0], *[rng.randrange(5) for _ in range(18)]] for _ in range(2)]
    found = {}
    for _ in range(draw(st.integers(0, 7))):
        tokens = [*rng.choice(starts), *[rng.randrange(3) for _ in range(rng.randint(1, 30))]]
        found[tuple(tokens)] = None
    return [np.array(tokens, dtype=np.int32) for tokens in found]


@given(conversations())
def test_every_conversation_is_in_one_group_whole(ids: list[Ids]) -> None:
    found = share_prefixes(ids, BUDGET)
    assert sorted(member for members, _ in found for member in members) == list(range(len(ids)))
    for group, (members, prefix) in zip(as_groups(ids, found), found, strict=True):
        assert len(group.prefix) == prefix
        assert prefix == 0 or prefix >= 16
        assert group.num_tokens <= BUDGET
        for member, continuation in zip(members, group.continuations, strict=True):
            assert len(continuation) >= 1
            assert np.array_equal(np.concatenate([group.prefix, continuation]), ids[member])


def best_of_all(ids: list[Ids]) -> int:
    """Tokens that the best of all ways to cut the sorted conversations saves."""
    ordered = sorted(ids, key=lambda one: one.tolist())

    def gain(run: list[Ids]) -> int:
        shortest = min(map(len, run)) - 1
        prefix = next((k for k in range(shortest) if len({int(one[k]) for one in run}) > 1), shortest)
        fits = sum(map(len, run)) - (len(run) - 1) * prefix <= BUDGET
        return (len(run) - 1) * prefix if prefix >= 16 and fits else 0

    best = [0] * (len(ordered) + 1)
    for end in range(1, len(ordered) + 1):
        best[end] = max(best[start] + gain(ordered[start:end]) for start in range(end))
    return best[-1]


@given(conversations())
def test_as_much_is_saved_as_can_be(ids: list[Ids]) -> None:
    assert saved(share_prefixes(ids, BUDGET)) == best_of_all(ids)


def test_pairs_and_lists_of_prompts_that_begin_alike() -> None:
    """Twenty tokens of a system message, four prompts of forty: of one two answers, of another four."""
    system, answers = list(range(20)), [[900 + i, 7, 8] for i in range(4)]
    prompts = [[100 * number + i for i in range(40)] for number in range(1, 5)]
    rows = [(0, 2), (1, 4), (2, 1), (3, 1)]
    ids = [ids_of(system, prompts[prompt], answer) for prompt, count in rows for answer in answers[:count]]
    random.Random(1).shuffle(ids)
    found = share_prefixes(ids, budget_tokens=1000)
    assert sorted((len(members), prefix) for members, prefix in found) == [(2, 20), (2, 60), (4, 60)]
    assert sizes_of(as_groups(ids, found), 64).tokens.sum() == sum(map(len, ids)) - 60 - 3 * 60 - 20


def test_one_that_another_begins_with_keeps_its_last_token() -> None:
    ids = [ids_of(list(range(30))), ids_of(list(range(50)))]
    assert share_prefixes(ids, 1000) == [([0, 1], 29)]


@pytest.mark.parametrize(("budget", "expected"), [(40, [2] * 3), (49, [2] * 3), (50, [3, 3]), (60, [2, 4]), (80, [6])])
def test_a_group_ends_at_the_budget(budget: int, expected: list[int]) -> None:
    """Twenty tokens in common, ten of each one's own."""
    ids = [ids_of(list(range(20)), [100 + i] * 10) for i in range(6)]
    assert sorted(len(members) for members, _ in share_prefixes(ids, budget)) == expected
