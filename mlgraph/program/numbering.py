"""Numbers in tensor and module names: how the names of one block become those of another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Numbered:
    """Names ``f"{prefix}{start + step * j}{suffix}"`` for j = 0, 1, ..."""

    prefix: str
    start: int
    step: int
    suffix: str

    def __call__(self, index: int) -> str:
        return f"{self.prefix}{self.start + self.step * index}{self.suffix}"


def numbered(names: Sequence[str]) -> Numbered | None:
    """The pattern of at least two names that differ in one number growing evenly, else None."""
    tokens = [_DIGITS.split(name) for name in names]
    first, second = tokens[0], tokens[1]
    if len(first) != len(second):
        return None
    differing = [
        position for position, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]
    ]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return None
    position = differing[0]
    start, step = int(first[position]), int(second[position]) - int(first[position])
    pattern = Numbered("".join(first[:position]), start, step, "".join(first[position + 1 :]))
    consistent = step > 0 and all(name == pattern(index) for index, name in enumerate(names))
    return pattern if consistent else None


def aligned(patterns: Sequence[Numbered | None]) -> bool:
    """Whether one block takes whole numbers: names of one prefix start within one step of each other."""
    starts: dict[tuple[str, int], list[int]] = {}
    for pattern in patterns:
        if pattern is None:
            return False
        starts.setdefault((pattern.prefix, pattern.step), []).append(pattern.start)
    if len(starts) != len({prefix for prefix, _ in starts}):
        return False
    return all(max(found) - min(found) < step for (_, step), found in starts.items())


def stretches(names: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Maximal runs ``[start, stop)`` of at least two blocks whose names count up together.

    ``names[j][i]`` is the name at position i of block j; positions at which all names are equal
    (shared tensors) don't count.
    """
    found: list[tuple[int, int]] = []
    start = 0
    while start + 1 < len(names):
        stop = start + 1
        while stop < len(names) and _together(names[start : stop + 1]):
            stop += 1
        if stop - start >= 2:
            found.append((start, stop))
            start = stop
        else:
            start += 1
    return found


def _together(names: Sequence[Sequence[str]]) -> bool:
    if len({len(block) for block in names}) != 1:
        return False
    columns = [column for column in zip(*names, strict=True) if len(set(column)) > 1]
    return bool(columns) and aligned([numbered(column) for column in columns])


def common_path(names: Sequence[str]) -> str:
    """The longest dotted path that all names start with, without trailing numbers."""
    parts = [name.split(".") for name in names]
    path: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        path.append(column[0])
    while path and path[-1].isdigit():
        path.pop()
    return ".".join(path)


def number_under(name: str, prefix: str) -> int | None:
    """The number that follows ``prefix`` in ``name`` as a whole path component, if it does."""
    if not name.startswith(prefix):
        return None
    head = name[len(prefix) :].split(".", 1)[0]
    return int(head) if head.isdigit() else None


def renumber(path: str, prefix: str, number: int) -> str:
    """The path with another number after ``prefix``."""
    _, *rest = path[len(prefix) :].split(".")
    return ".".join([f"{prefix}{number}", *rest])
