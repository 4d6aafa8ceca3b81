"""What differs between two programs, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlgraph.graph.ops import op_label
from mlgraph.inspect.changes import Change, changes
from mlgraph.inspect.history import PassStep, lineage
from mlgraph.inspect.paired_modules import ModulePair, TensorDistance, paired_tree
from mlgraph.inspect.summary import Summary, families, summarize
from mlgraph.program import require_program
from mlgraph.program.display import Shown

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program


@dataclass(frozen=True)
class AxisSizes:
    """The sizes that ``number`` axes of one name have in either program; empty where there are none."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    number: int = 1


@dataclass(frozen=True)
class TensorChange:
    """A tensor of either program, its shapes, and by how much its values differ where shapes are equal.

    ``relative`` is the norm of the difference over the norm of the first.
    """

    name: str
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    relative: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Differences(Shown):
    """Two programs side by side; prints as what ``mlgraph diff`` shows.

    ``axes`` have those whose size differs, ``tensors`` those whose shape or values differ, ``equal`` counts
    the others; ``operations`` has the ops of which one program has more. ``modules`` is the tree of both.
    """

    before: Summary
    after: Summary
    lineage: tuple[tuple[PassStep, ...], tuple[PassStep, ...]]
    axes: tuple[AxisSizes, ...]
    tensors: tuple[TensorChange, ...]
    equal: int
    operations: dict[str, tuple[int, int]]
    modules: ModulePair

    @property
    def same(self) -> bool:
        """Whether nothing at all differs."""
        return not (self.tensors or self.operations)


def diff(before: Program, after: Program) -> Differences:
    """What differs between two programs: lineage, figures, axes, shapes, weights, graphs and modules.

    Blocks of which one program has fewer are compared with the blocks that stand for them.

    >>> print(mlgraph.diff(program, small))
    """
    require_program(before, after)
    tensors, equal = _tensors(before, after)
    first, second = _operations(before), _operations(after)
    known = {change.name: change.relative for change in tensors}
    return Differences(
        summarize(before),
        summarize(after),
        (lineage(before, after), lineage(after, before)),
        tuple(_axes(before, after)),
        tuple(tensors),
        equal,
        {op: (first[op], second[op]) for op in sorted(first | second) if first[op] != second[op]},
        paired_tree(before, after, _gap(before, after, known)),
    )


def _axes(before: Program, after: Program) -> list[AxisSizes]:
    """The axes whose size differs: by lineage where one program was made of the other, else by name."""
    for step, flipped in ((_last_step(before, after), False), (_last_step(after, before), True)):
        if step is not None:
            sides = [(change.before, change.after)[:: -1 if flipped else 1] for change in step]
            return [
                AxisSizes(change.name, (first,), (second,), change.number)
                for change, (first, second) in zip(step, sides, strict=True)
                if change.kind == "axis"
            ]
    sizes: dict[str, tuple[set[int], set[int]]] = {}
    for side, program in enumerate((before, after)):
        for family in families(program):
            sizes.setdefault(family.name, (set(), set()))[side].add(family.size)
    return [
        AxisSizes(name, tuple(sorted(left)), tuple(sorted(right)))
        for name, (left, right) in sizes.items()
        if left != right
    ]


def _last_step(before: Program, after: Program) -> list[Change] | None:
    """What the last pass changed, if it made ``after`` of a program with the history of ``before``."""
    if after.lineage is None:
        return None
    parent = after.lineage.parent
    alike = parent.num_parameters() == before.num_parameters() and len(parent.axes) == len(before.axes)
    if not alike or after.history[:-1] != before.history:
        return None
    return changes(parent, after)


def _tensors(before: Program, after: Program) -> tuple[list[TensorChange], int]:
    changed, equal = [], 0
    for name in dict.fromkeys((*before.tensors, *after.tensors)):
        left = before.tensors.get(name)
        right = after.tensors.get(name)
        change = _compare(name, left, right)
        if change is None:
            equal += 1
        else:
            changed.append(change)
    return changed, equal


def _compare(name: str, left: torch.Tensor | None, right: torch.Tensor | None) -> TensorChange | None:
    if left is None or right is None or left.shape != right.shape:
        return TensorChange(name, _shape(left), _shape(right))
    first, second = left.detach().double(), right.detach().double()
    gap = first - second
    largest = float(gap.abs().max()) if gap.numel() else 0.0
    if largest == 0.0 or (first == second).all():
        return None
    norm = float(first.norm())
    return TensorChange(
        name, _shape(left), _shape(right), float(gap.norm()) / norm if norm else float("inf"), largest
    )


def _gap(before: Program, after: Program, known: Mapping[str, float | None]) -> TensorDistance:
    """How far a tensor of one is from one of the other: the norm of the difference over that of the first.

    None where they are equal; ``known`` are those of tensors of one name, which are not computed again.
    """

    def of(first: str, second: str) -> float | None:
        if first == second:
            return known.get(first)
        change = _compare(first, before.tensors[first], after.tensors[second])
        return change.relative if change is not None else None

    return of


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _operations(program: Program) -> Counter[str]:
    return Counter(op_label(node) for node in program.graph.nodes if node.op == "call_function")
