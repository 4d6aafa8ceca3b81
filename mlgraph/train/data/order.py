"""The order of samples in an epoch as a function of their number: nothing is listed, nothing replayed.

A Feistel network of six rounds permutes the numbers of twice ``bits`` bits; one that falls outside the data
goes through it again until it falls inside (Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA
2002). Its constants are part of what a run directory means: changing them changes the order of resumed runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_ROUNDS = 6
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xD1B54A32D192ED03], dtype=np.uint64)


def mix(*numbers: int) -> int:
    """A seed of 63 bits, far from those of other numbers."""
    found = 1
    for number in numbers:
        found = (found ^ (number % 2**64)) * 0x9E3779B97F4A7C15 % 2**64
        found = (found ^ (found >> 29)) * 0xD1B54A32D192ED03 % 2**64
    return (found ^ (found >> 32)) % 2**63


IntArray = np.ndarray[Any, Any]


def shuffled(places: IntArray, count: int, seed: int) -> IntArray:
    """The samples at ``places`` ([n], each below ``count``) of one order of ``count`` samples."""
    half = np.uint64(max((max(count - 1, 1).bit_length() + 1) // 2, 1))
    keys = np.array([mix(seed, number) for number in range(_ROUNDS)], dtype=np.uint64)
    found = _rounds(places.astype(np.uint64), half, keys)
    while bool((outside := found >= count).any()):
        found[outside] = _rounds(found[outside], half, keys)
    return found.astype(np.int64)


def _rounds(numbers: IntArray, half: np.uint64, keys: IntArray) -> IntArray:
    low = np.uint64((1 << int(half)) - 1)
    left, right = numbers >> half, numbers & low
    with np.errstate(over="ignore"):
        for key in keys:
            drawn = (right ^ key) * _MULTIPLIERS[0]
            drawn = (drawn ^ (drawn >> np.uint64(29))) * _MULTIPLIERS[1]
            left, right = right, left ^ ((drawn >> np.uint64(32)) & low)
    return (left << half) | right


class ShuffledBatches:
    """Batches of sample numbers, in another order every epoch; what does not fill a batch is left out.

    A batch sampler whose batches are found by number: a run goes on without drawing those before.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed, self.epoch = count, size, seed, 0

    def __len__(self) -> int:
        return self.count // self.size

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch."""
        self.epoch = epoch

    def batch(self, number: int) -> list[int]:
        """The samples of one batch."""
        places = np.arange(number * self.size, (number + 1) * self.size)
        found: list[int] = shuffled(places, self.count, mix(self.seed, self.epoch)).tolist()
        return found

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(number) for number in range(len(self)))


def drawn_for(*numbers: int) -> torch.Generator:
    """A generator of the numbers that one sample draws, whoever draws them."""
    return torch.Generator().manual_seed(mix(*numbers))
