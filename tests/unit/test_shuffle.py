"""A shuffle that is computed place by place: each number once, each order as often as another."""

import itertools
from collections import Counter

import numpy as np
import pytest

from nemo_bt.batching.shuffle import shuffled


@pytest.mark.parametrize("num", [1, 2, 3, 7, 64, 65, 1000, 65_536, 100_003])
def test_every_number_stands_at_one_place(num: int) -> None:
    found = shuffled(np.arange(num), num, (3, 4))
    assert np.bincount(found).tolist() == [1] * num
    places = np.arange(num)[:: max(1, num // 10)]
    assert shuffled(places, num, (3, 4)).tolist() == found[places].tolist()


def test_every_order_of_five_comes_as_often_as_another() -> None:
    keys = 24_000
    orders = Counter(tuple(shuffled(np.arange(5), 5, (9, key)).tolist()) for key in range(keys))
    expected = keys / 120
    assert len(orders) == 120 == len(list(itertools.permutations(range(5))))
    chi_squared = sum((count - expected) ** 2 / expected for count in orders.values())
    assert chi_squared < 119 + 5 * (2 * 119) ** 0.5  # its mean, and five of its standard deviations


def test_places_neighbours_and_epochs_have_nothing_to_do_with_each_other() -> None:
    num = 100_000
    one, other = (shuffled(np.arange(num), num, (5, epoch)) for epoch in (0, 1))
    for first, second in ((np.arange(num), one), (one[:-1], one[1:]), (one, other), (one & 255, np.arange(num) & 255)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / num**0.5


def test_what_four_hundred_million_have_at_a_place_is_found_at_once() -> None:
    num = 400_000_000
    found = shuffled(np.arange(num - 1000, num), num, (1, 0))
    assert len(set(found.tolist())) == 1000
    assert 0 <= found.min() < found.max() < num
