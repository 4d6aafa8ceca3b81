"""Example sizes that an analysis cannot mistake for a width: small primes that no configuration holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


def integers(value: Any) -> Iterator[int]:
    """Every whole number in nested mappings and lists."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from integers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from integers(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def find(config: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of ``names`` that ``config`` holds, outer levels before inner ones."""
    for name in names:
        queue: deque[Mapping[str, Any]] = deque([config])
        while queue:
            level = queue.popleft()
            if level.get(name) is not None:
                return level[name]
            queue.extend(item for item in level.values() if isinstance(item, Mapping))
    return None


class Primes:
    """Hands out primes that are distinct from each other and from a configuration's numbers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        taken = set(integers(config))
        self._free = [prime for prime in PRIMES if prime not in taken]

    def next(self, least: int, most: int | None = None) -> int:
        """The smallest unused prime of at least ``least``, but no more than ``most``."""
        fitting = [prime for prime in self._free if prime >= least and (most is None or prime <= most)]
        if not fitting:
            return most if most is not None else least
        self._free.remove(fitting[0])
        return fitting[0]
