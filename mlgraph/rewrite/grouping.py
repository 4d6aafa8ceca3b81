"""Groups of indices that one coarse index stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlgraph.errors import AxisError

if TYPE_CHECKING:
    from mlgraph.rewrite.choices import Placement


@dataclass(frozen=True)
class Grouping:
    """The coarse index of every fine index; every coarse index from 0 on has at least one.

    ``shares`` says how a contracting slot divides a coarse weight over its copies (they sum to 1 in every
    group); equal shares are the default.
    """

    coarse_of: tuple[int, ...]
    shares: tuple[float, ...] | None = None

    @property
    def fine(self) -> int:
        return len(self.coarse_of)

    @cached_property
    def coarse(self) -> int:
        return max(self.coarse_of) + 1

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The fine indices of every coarse index."""
        out: list[list[int]] = [[] for _ in range(self.coarse)]
        for fine, coarse in enumerate(self.coarse_of):
            out[coarse].append(fine)
        return tuple(tuple(group) for group in out)

    @cached_property
    def group_sizes(self) -> tuple[int, ...]:
        return tuple(len(group) for group in self.members)

    @property
    def uniform(self) -> int | None:
        """The size of all groups, if they have one."""
        sizes = set(self.group_sizes)
        return sizes.pop() if len(sizes) == 1 else None

    @staticmethod
    def adjacent(size: int, factor: int) -> Grouping:
        """Groups of ``factor`` neighbours: 2i and 2i+1."""
        return Grouping(tuple(i // factor for i in range(size)))

    @staticmethod
    def halves(size: int, factor: int) -> Grouping:
        """Groups with one member from each of ``factor`` equal parts: i and i + n/2."""
        return Grouping(tuple(i % (size // factor) for i in range(size)))

    @staticmethod
    def placed(pairing: Placement, size: int, factor: int) -> Grouping:
        """Groups of ``factor`` by where they lie: neighbours, or one member of each of equal parts."""
        return {"adjacent": Grouping.adjacent, "halves": Grouping.halves}[pairing](size, factor)

    @staticmethod
    def of(given: Sequence[int] | Sequence[Sequence[int]], size: int, axis: str) -> Grouping:
        """A grouping from coarse indices per fine index, or from lists of fine indices per group.

        Raises:
            AxisError: it does not cover the axis exactly once.
        """
        items: list[Any] = list(given)
        if items and not isinstance(items[0], int):
            coarse_of = [-1] * size
            for coarse, group in enumerate(items):
                for fine in group:
                    if not 0 <= fine < size or coarse_of[fine] != -1:
                        raise AxisError(
                            f"the grouping of axis {axis} lists index {fine} twice or out of its {size}."
                        )
                    coarse_of[fine] = coarse
            items = coarse_of
        if len(items) != size or -1 in items:
            raise AxisError(
                f"the grouping of axis {axis} covers {len(items)} of its {size} indices: list each once."
            )
        if set(items) != set(range(max(items) + 1)):
            raise AxisError(
                f"the grouping of axis {axis} skips a coarse index: number groups from 0 without gaps."
            )
        return Grouping(tuple(items))


Groupings = Mapping[str, Grouping]
