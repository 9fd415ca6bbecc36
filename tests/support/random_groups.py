"""Token groups of random ids, with and without a shared prompt."""

import random

import numpy as np

from nemo_bt.batching.stream import Comparison, TokenGroup

VOCAB = 128
PAIRS = {
    1: (),
    2: (Comparison((0, 1)),),
    3: (Comparison((0, 2)),),
    4: (Comparison((0, 1)), Comparison((3, 2)), Comparison((0, 2))),
}


def random_groups(num_continuations: int, shared: bool, seed: int = 0) -> list[TokenGroup]:
    rng = random.Random(seed)

    def ids(longest: int) -> np.ndarray:
        return np.array([rng.randrange(1, VOCAB) for _ in range(rng.randint(1, longest))], dtype=np.int32)

    groups = []
    for _ in range(6):
        prefix, continuations = ids(50), [ids(30) for _ in range(num_continuations)]
        if shared:
            groups.append(TokenGroup(prefix, tuple(continuations), PAIRS[num_continuations]))
        else:
            whole = tuple(np.concatenate([prefix, c]) for c in continuations)
            groups.append(TokenGroup(prefix[:0], whole, PAIRS[num_continuations]))
    return groups


def sequences(groups: list[TokenGroup]) -> list[np.ndarray]:
    return [np.concatenate([group.prefix, side]) for group in groups for side in group.continuations]
