"""Rewards of a set, given or made up, as a report reads them."""

import numpy as np

from nemo_bt.reporting.numbers import (
    JudgedSet,
)
from nemo_bt.reporting.rewards import SetRewards


def judged(rewards_E2: np.ndarray, characters_E2: np.ndarray | None = None) -> JudgedSet:
    num_pairs = len(rewards_E2)
    characters_E2 = np.full((num_pairs, 2), 10) if characters_E2 is None else characters_E2
    unknown_E2 = np.full_like(rewards_E2, np.nan)
    known_E = np.ones(num_pairs, dtype=bool)
    rewards = SetRewards(rewards_E2, rewards_E2, rewards_E2[:, :1].repeat(2, 1), unknown_E2, known_E)
    sources = ["even" if entry % 2 == 0 else "odd" for entry in range(num_pairs)]
    return JudgedSet("held_out", [f"row {entry}" for entry in range(num_pairs)], sources, characters_E2, rewards)
