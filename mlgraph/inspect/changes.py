"""What a pass did to axes and blocks, read off the lineage of its result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlgraph.inspect.summary import Summary, families, summarize

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program


@dataclass(frozen=True)
class Change:
    """Axes of one name (``kind`` ``"axis"``), or a chain (``"blocks"``), whose size changed."""

    kind: str
    name: str
    before: int
    after: int
    number: int = 1


@dataclass(frozen=True)
class Kept:
    """Axes of one name that kept their size, and why."""

    name: str
    size: int
    reason: str
    number: int = 1


@dataclass(frozen=True)
class Effect:
    """What a pass did to a program: figures before and after, what changed and what was kept, and notes."""

    before: Summary
    after: Summary
    changed: tuple[Change, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]


def effect(
    before: Program,
    after: Program,
    left: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> Effect:
    """What a pass that made ``after`` of ``before`` did; of several passes, what became of chains is told.

    ``left`` gives for axes that it was told to leave, by name, why; ``dtype`` is the one in which the result
    is written.
    """
    first, second = summarize(before), summarize(after, dtype)
    return Effect(
        first,
        second,
        tuple(changes(before, after) or chain_changes(first, second)),
        tuple(kept(before, after, left or {})),
        new_notes(before, after),
    )


def chain_changes(before: Summary, after: Summary) -> list[Change]:
    """The chains of blocks whose length differs between two programs, however one was made of the other."""
    return [
        Change("blocks", name, number, after.blocks[name])
        for name, number in before.blocks.items()
        if after.blocks.get(name, number) != number
    ]


def new_notes(before: Program, after: Program) -> tuple[str, ...]:
    """The notes of both programs, each once."""
    return tuple(dict.fromkeys(map(str, (*before.notes, *after.notes))))


def changes(before: Program, after: Program) -> list[Change]:
    """Every axis and chain whose size differs between a program and what a pass made of it."""
    if _made_of(after, before):
        return [*_axis_changes(before, after), *_chain_changes(before, after)]
    if _made_of(before, after):
        back = [*_axis_changes(after, before), *_chain_changes(after, before)]
        return [replace(change, before=change.after, after=change.before) for change in back]
    return []


def _made_of(result: Program, source: Program) -> bool:
    """Whether one pass made ``result`` of ``source``."""
    return result.lineage is not None and result.lineage.parent.graph is source.graph


def _axis_changes(before: Program, after: Program) -> Iterator[Change]:
    sizes = _sizes(before, after)
    grouped: dict[tuple[str, int, int], int] = defaultdict(int)
    for axis in before.axes:
        if sizes.get(axis.id, axis.size) != axis.size:
            grouped[axis.name, axis.size, sizes[axis.id]] += 1
    for (name, size, other), number in grouped.items():
        yield Change("axis", name, size, other, number)


def _chain_changes(before: Program, after: Program) -> Iterator[Change]:
    layers = after.lineage.layers if after.lineage else {}
    for chain in before.blocks:
        grouping = layers.get(chain.name)
        number = _other_size(grouping, len(chain)) if grouping else len(chain)
        if number != len(chain):
            yield Change("blocks", chain.name, len(chain), number)


def _sizes(before: Program, after: Program) -> dict[str, int]:
    """The new size of every axis that the pass grouped or that it split up."""
    groupings = after.lineage.groupings if after.lineage else {}
    sizes = {axis.id: axis.size for axis in before.axes}
    return {
        axis: _other_size(grouping, sizes.get(axis, 0)) for axis, grouping in groupings.items() if grouping
    }


def _other_size(grouping: Sequence[int], size: int) -> int:
    """A grouping holds the coarse index of every fine index; one of the two sides has ``size``."""
    coarse = max(grouping) + 1
    return coarse if size == len(grouping) else len(grouping)


def kept(before: Program, after: Program, left: Mapping[str, str]) -> list[Kept]:
    """The axes that the pass did not change, with reasons; those that it was told to leave with theirs."""
    if not _made_of(after, before):
        return []
    sizes = _sizes(before, after)
    listed = []
    for family in families(before):
        still = [axis for axis in family.ids if sizes.get(axis, family.size) == family.size]
        if not still:
            continue
        told = left.get(family.name)
        if told is None and all(axis in left for axis in still):
            told = left[still[0]]
        reason = told or family.reason or "no factor was asked for"
        if told is None and _stands_behind(before, still) and not _leader_changed(before, still, sizes):
            reason = f"a width takes the first axis of a dim alone: --axis {family.name}=N takes this one"
        listed.append(Kept(family.name, family.size, reason, len(still)))
    return listed


def _stands_behind(program: Program, axes: Iterable[str]) -> bool:
    """Whether axes are kept because another of their dims is coarsened in their place."""
    reasons = (program.axes[axis].kept for axis in axes)
    return all(reason is not None and reason.kind == "minor" for reason in reasons)


def _leader_changed(program: Program, axes: Iterable[str], sizes: Mapping[str, int]) -> bool:
    """Whether some axis with which these make up a dim has another size now."""
    own = set(axes)
    for dims in program.axes.tensor_dims.values():
        for dim in dims:
            leaves = list(dim.leaves())
            if own.isdisjoint(leaf.axis for leaf in leaves):
                continue
            if any(sizes.get(leaf.axis, leaf.size) != leaf.size for leaf in leaves):
                return True
    return False
