"""Groups of indices that one coarse index stands for."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlgraph.errors import AxisError
from mlgraph.program.selection import Selection

if TYPE_CHECKING:
    from mlgraph.program import Lineage
    from mlgraph.rewrite.choices import Extend, Placement, Reduce


@dataclass(frozen=True)
class Grouping:
    """The coarse index of every fine index; every coarse index from 0 on has at least one.

    With it go a restriction R (coarse by fine) and a prolongation P (fine by coarse), R P = I. ``shares`` are
    what every fine index counts in R: they sum to 1 in every group, and are equal where none are given (the
    mean). A share of 1 selects an index, one of 0 leaves it out. ``extend`` says what P gives every fine
    index: a ``copy`` of its group's, or, ``pad``, that to the one that was selected and zero to the rest.
    """

    coarse_of: tuple[int, ...]
    shares: tuple[float, ...] | None = None
    extend: Extend = "copy"

    def __post_init__(self) -> None:
        if self.extend == "pad" and self.selected is None:
            raise AxisError("what was averaged cannot be padded: select a member of each group, or copy.")

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

    @cached_property
    def kept(self) -> tuple[tuple[int, ...], ...]:
        """The fine indices of every coarse index that count in it."""
        if self.shares is None:
            return self.members
        return tuple(tuple(fine for fine in group if self._share(fine)) for group in self.members)

    @cached_property
    def selected(self) -> tuple[int, ...] | None:
        """The one fine index of every coarse index that counts, where shares select one."""
        if self.shares is None or not set(self.shares) <= {0.0, 1.0}:
            return None
        return tuple(group[0] for group in self.kept)

    @property
    def is_plain(self) -> bool:
        """Whether it goes down by means and comes back by copies."""
        return self.shares is None and self.extend == "copy"

    def weights(self, restricts: bool) -> tuple[float, ...]:
        """What every fine index counts in R, or what P gives it of its group's."""
        if restricts:
            return self.shares or tuple(1 / self.group_sizes[coarse] for coarse in self.coarse_of)
        if self.extend == "pad":
            return self.shares or ()
        return (1.0,) * self.fine

    def _share(self, fine: int) -> float:
        return self.shares[fine] if self.shares is not None else 1.0

    def going(self, reduce: Reduce, extend: Extend, at: Callable[[tuple[int, ...]], int] = min) -> Grouping:
        """These groups with other ways down and back; ``at`` chooses which member of a group is selected.

        Raises:
            AxisError: what is averaged is to be padded.
        """
        if reduce == "mean":
            return Grouping(self.coarse_of, self.shares, extend)
        chosen = {at(group) for group in self.kept}
        return Grouping(self.coarse_of, tuple(float(i in chosen) for i in range(self.fine)), extend)

    def then(self, coarser: Grouping) -> Grouping:
        """The grouping that goes down by this one and then by ``coarser``."""
        coarse_of = tuple(coarser.coarse_of[coarse] for coarse in self.coarse_of)
        if self.is_plain and coarser.is_plain and self.uniform is not None:
            return Grouping(coarse_of)
        first, second = self.weights(restricts=True), coarser.weights(restricts=True)
        shares = tuple(share * second[coarse] for share, coarse in zip(first, self.coarse_of, strict=True))
        pads = "pad" in (self.extend, coarser.extend) and set(shares) <= {0.0, 1.0}
        return Grouping(coarse_of, shares, "pad" if pads else "copy")

    @staticmethod
    def keeping(kept: Sequence[int], size: int, axis: str, extend: Extend = "copy") -> Grouping:
        """One group for every index kept, which is selected; others belong to the one kept before them.

        Raises:
            AxisError: the indices do not rise, or are out of the axis.
        """
        listed = list(kept)
        if not listed or sorted(set(listed)) != listed or not 0 <= listed[0] <= listed[-1] < size:
            raise AxisError(
                f"{listed} are not what to keep of the {size} indices of {axis}: list some of 0 to "
                f"{size - 1}, rising."
            )
        coarse_of = [max(bisect.bisect_right(listed, fine) - 1, 0) for fine in range(size)]
        shares = tuple(float(fine in set(listed)) for fine in range(size))
        return Grouping(tuple(coarse_of), shares, extend)

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
    def even(size: int, groups: int, axis: str) -> Grouping:
        """So many groups of neighbours, as even as can be.

        Raises:
            AxisError: the axis has fewer indices.
        """
        if not 1 <= groups <= size:
            raise AxisError(f"{axis} has {size} indices and cannot have {groups}: choose 1 to {size}.")
        return Grouping(tuple(i * groups // size for i in range(size)))

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

        Lists may leave indices out: those count in no group, and belong to that of the index before them.

        Raises:
            AxisError: an index is given twice or is none, or a group is empty.
        """
        items: list[Any] = list(given)
        shares = None
        if items and not isinstance(items[0], int):
            items, shares = _filled(items, size, axis)
        if len(items) != size:
            raise AxisError(
                f"the grouping of axis {axis} covers {len(items)} of its {size} indices: list each once."
            )
        if set(items) != set(range(max(items) + 1)):
            raise AxisError(
                f"the grouping of axis {axis} skips a coarse index: number groups from 0 without gaps."
            )
        return Grouping(tuple(items), shares)


def _filled(
    groups: Sequence[Sequence[int]], size: int, axis: str
) -> tuple[list[int], tuple[float, ...] | None]:
    """The coarse index of every fine one, and shares where some are left out."""
    coarse_of = [-1] * size
    for coarse, group in enumerate(groups):
        for fine in group:
            if not 0 <= fine < size or coarse_of[fine] != -1:
                raise AxisError(f"the grouping of axis {axis} lists index {fine} twice or out of its {size}.")
            coarse_of[fine] = coarse
    if -1 not in coarse_of or not groups:
        return coarse_of, None
    shares = tuple(0.0 if coarse == -1 else 1 / len(groups[coarse]) for coarse in coarse_of)
    before = next(coarse for coarse in coarse_of if coarse != -1)
    for fine, coarse in enumerate(coarse_of):
        before = before if coarse == -1 else coarse
        coarse_of[fine] = before
    return coarse_of, shares


def groupings_of(lineage: Lineage) -> dict[str, Grouping]:
    """The groupings of axes by which a lineage went, by axis id of its parent."""
    return _of(lineage.groupings, lineage.selections)


def layers_of(lineage: Lineage) -> dict[str, Grouping]:
    """The groupings of blocks by which a lineage went, by name of the parent's chain."""
    return _of(lineage.layers, lineage.layer_selections)


def _of(coarse_of: Mapping[str, tuple[int, ...]], selections: Mapping[str, Selection]) -> dict[str, Grouping]:
    plain = Selection()
    chosen = {name: selections.get(name, plain) for name in coarse_of}
    return {
        name: Grouping(groups, chosen[name].shares, "pad" if chosen[name].pads else "copy")
        for name, groups in coarse_of.items()
    }


def selections_of(groupings: Mapping[str, Grouping]) -> dict[str, Selection]:
    """What a lineage keeps of groupings beside the coarse indices."""
    return {
        name: Selection(grouping.shares, grouping.extend == "pad")
        for name, grouping in groupings.items()
        if not grouping.is_plain
    }


Groupings = Mapping[str, Grouping]
