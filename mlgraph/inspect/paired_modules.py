"""Two programs' module trees as one: every module and tensor of either, what changed, repeats folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlgraph.inspect.modules import Module, TensorLeaf, full_tree, longest_run, numbers

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import Chain

SAME, CHANGED, ADDED, REMOVED = " ", "~", "+", "-"
TensorDistance = Callable[[str, str], float | None]


@dataclass(frozen=True)
class TensorPair:
    """A tensor of either program; ``mark`` says what became of it.

    ``gap`` is the norm of the difference over the norm of the first, where both have one shape.
    """

    name: str
    mark: str
    before: TensorLeaf | None
    after: TensorLeaf | None
    gap: float | None = None


@dataclass(frozen=True)
class ModulePair:
    """A module of either program: how many each has, where repeats are folded, and their parameters."""

    name: str
    tensors: tuple[TensorPair, ...] = ()
    children: tuple[ModulePair, ...] = ()
    repeats: tuple[int, int] = (1, 1)
    parameters: tuple[int, int] = (0, 0)
    folded: bool = False

    @property
    def mark(self) -> str:
        """The mark that all it holds has, else that it is changed."""
        marks = {tensor.mark for tensor in self.tensors} | {child.mark for child in self.children}
        if self.repeats[0] != self.repeats[1] and 0 not in self.repeats:
            marks.add(CHANGED)
        return marks.pop() if len(marks) == 1 else CHANGED if marks else SAME


def paired_tree(before: Program, after: Program, gap: TensorDistance) -> ModulePair:
    """The two trees as one, repeats folded; ``gap`` tells of two tensors by name how far they are apart.

    Blocks of a chain that both programs have, but in different numbers, are paired in proportion: the first
    block of a group with the block that stands for the group.
    """
    chains = {chain.name: chain for chain in before.blocks}
    common = {chain.name: (chains[chain.name], chain) for chain in after.blocks if chain.name in chains}
    return fold(_Pairing(common, gap).pair("", full_tree(before), full_tree(after)))


class _Pairing:
    def __init__(self, chains: Mapping[str, tuple[Chain, Chain]], gap: TensorDistance) -> None:
        self._chains = chains
        self._gap = gap

    def pair(
        self, path: str, before: Module | None, after: Module | None, weight: tuple[int, int] = (1, 1)
    ) -> ModulePair:
        some = before or after
        assert some is not None
        children = []
        ours, theirs = _named(before), _named(after)
        for first, second, weights in self._matched(path, ours, theirs):
            name = first or second
            inner = f"{path}.{name}" if path else name
            children.append(self.pair(inner, ours.get(first), theirs.get(second), weights))
        return ModulePair(
            some.name,
            tuple(self._tensors(before, after)),
            tuple(children),
            weight,
            (_parameters(before) * weight[0], _parameters(after) * weight[1]),
        )

    def _matched(
        self, path: str, ours: Mapping[str, Module], theirs: Mapping[str, Module]
    ) -> Iterator[tuple[str, str, tuple[int, int]]]:
        """Names of modules that belong together, and how many modules of either program each stands for."""
        blocks = self._blocks(path)
        if blocks is None:
            for name in dict.fromkeys((*ours, *theirs)):
                yield _alone(name, ours, theirs)
            return
        first, second = blocks
        pairs = min(len(first), len(second))
        for name in dict.fromkeys((*ours, *theirs)):
            number = int(name) if name.isdecimal() else None
            if number not in first.numbers and number not in second.numbers:
                yield _alone(name, ours, theirs)
        for pair in range(pairs):
            spans = [
                (pair * len(chain) // pairs, (pair + 1) * len(chain) // pairs) for chain in (first, second)
            ]
            for offset in range(first.period):
                left, right = (
                    str(chain.start + chain.period * span[0] + offset)
                    for chain, span in zip((first, second), spans, strict=True)
                )
                yield left, right, (spans[0][1] - spans[0][0], spans[1][1] - spans[1][0])

    def _blocks(self, path: str) -> tuple[Chain, Chain] | None:
        chains = self._chains.get(path)
        if chains is None or any(chain.prefix != f"{path}." for chain in chains):
            return None
        first, second = chains
        return None if len(first) == len(second) or first.period != second.period else chains

    def _tensors(self, before: Module | None, after: Module | None) -> Iterator[TensorPair]:
        ours, theirs = (
            {leaf.name: leaf for leaf in module.leaves} if module else {} for module in (before, after)
        )
        for name in dict.fromkeys((*ours, *theirs)):
            first, second = ours.get(name), theirs.get(name)
            if first is None or second is None:
                yield TensorPair(name, ADDED if first is None else REMOVED, first, second)
            elif first.shape != second.shape:
                yield TensorPair(name, CHANGED, first, second)
            else:
                gap = self._gap(first.tied or first.path, second.tied or second.path)
                yield TensorPair(name, CHANGED if gap else SAME, first, second, gap)


def _alone(
    name: str, ours: Mapping[str, Module], theirs: Mapping[str, Module]
) -> tuple[str, str, tuple[int, int]]:
    """A module and its namesake."""
    first, second = name in ours, name in theirs
    return name if first else "", name if second else "", (int(first), int(second))


def _named(module: Module | None) -> dict[str, Module]:
    return {child.name: child for child in module.children} if module else {}


def _parameters(module: Module | None) -> int:
    return module.parameters if module else 0


def fold(pair: ModulePair) -> ModulePair:
    """Fold runs of numbered modules in which the same changed in the same way."""
    children = [fold(child) for child in pair.children]
    keys = [_likeness(child) if child.name.isdecimal() else None for child in children]
    folded: list[ModulePair] = []
    place = 0
    while place < len(children):
        period, repeat = longest_run(keys[place:])
        run = children[place : place + period * repeat]
        if repeat > 1:
            folded.extend(_merged(run[offset::period], period) for offset in range(period))
        else:
            folded.append(children[place])
        place += period * repeat
    return replace(pair, children=tuple(folded))


def _likeness(pair: ModulePair) -> object:
    tensors = tuple(
        (t.name, t.mark, t.before and t.before.shape, t.after and t.after.shape) for t in pair.tensors
    )
    return tensors, tuple((child.name, child.repeats, _likeness(child)) for child in pair.children)


def _merged(run: list[ModulePair], period: int) -> ModulePair:
    """Modules in which the same changed as one; of the gaps the largest stays."""
    first = run[0]
    tensors = tuple(
        replace(column[0], gap=max((t.gap for t in column if t.gap is not None), default=None))
        for column in zip(*(pair.tensors for pair in run), strict=True)
    )
    children = tuple(
        _merged_inside(list(column)) for column in zip(*(pair.children for pair in run), strict=True)
    )
    return ModulePair(
        numbers(first.name, period * max(1, *first.repeats), len(run)),
        tensors,
        children,
        (sum(pair.repeats[0] for pair in run), sum(pair.repeats[1] for pair in run)),
        (sum(pair.parameters[0] for pair in run), sum(pair.parameters[1] for pair in run)),
        folded=True,
    )


def _merged_inside(column: list[ModulePair]) -> ModulePair:
    """The same module of folded blocks: the figures of one, the largest gaps of all."""
    first = column[0]
    tensors = tuple(
        replace(row[0], gap=max((t.gap for t in row if t.gap is not None), default=None))
        for row in zip(*(pair.tensors for pair in column), strict=True)
    )
    children = tuple(
        _merged_inside(list(row)) for row in zip(*(pair.children for pair in column), strict=True)
    )
    return replace(first, tensors=tensors, children=children)
