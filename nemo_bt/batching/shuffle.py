"""A shuffle that is never written down: what stands at a place of it is computed from the place and a key."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]

_ROUNDS = 24


def shuffled(place_P: Ints, num: int, key: tuple[int, ...]) -> Ints:
    """Give what stands at some places of a shuffle of 0, 1, ..., num - 1.

    A Feistel network permutes the numbers of as many bits as num - 1 has; a number that is not below `num` is permuted
    again until it is (Black and Rogaway, Ciphers with arbitrary finite domains, 2002). Time and memory are those of the
    places that are asked for, whatever `num` is.

    Args:
        place_P: 0 <= place < num, [P], int64.
        key: numbers of 0 or more; other ones are another shuffle.

    Returns:
        [P], int64: each number once, if each place is asked for once.
    """
    num_bits = max(2, (num - 1).bit_length())
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    found_P = _permuted(place_P.astype(np.uint64), num_bits, keys)
    while len(outside := np.flatnonzero(found_P >= num)):
        found_P[outside] = _permuted(found_P[outside], num_bits, keys)
    number_P: Ints = found_P.astype(np.int64)
    return number_P


def _permuted(number_P: Any, num_bits: int, keys: Any) -> Any:
    """Permute numbers of so many bits: in turns, each half is changed by what the other half says."""
    bits = (np.uint64(num_bits // 2), np.uint64(num_bits - num_bits // 2))
    one = np.uint64(1)
    halves = [number_P >> bits[1], number_P & ((one << bits[1]) - one)]
    for turn, key in enumerate(keys):
        changed = turn % 2
        halves[changed] = halves[changed] ^ (_mixed(halves[1 - changed] + key) & ((one << bits[changed]) - one))
    return (halves[0] << bits[1]) | halves[1]


def _mixed(bits_P: Any) -> Any:
    """Mix 64 bits so that each depends on all (Steele, Lea and Flood, Fast splittable generators, 2014)."""
    bits_P = (bits_P ^ (bits_P >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits_P = (bits_P ^ (bits_P >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits_P ^ (bits_P >> np.uint64(31))
