"""What sizes and layers a program has, and from which they came by its lineage."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlgraph.interop.fitting.config_tree import Layers
from mlgraph.program.numbering import number_under
from mlgraph.rewrite.grouping import layers_of

if TYPE_CHECKING:
    from mlgraph.program import Lineage, Program
    from mlgraph.program.block_table import Chain
    from mlgraph.program.dims import Dim


def sizes_of(program: Program) -> frozenset[int]:
    """Sizes that axes, neighbouring axes of a dim together, and chains of the program have."""
    sizes = {axis.size for axis in program.axes}
    for dims in program.axes.tensor_dims.values():
        for dim in dims:
            own = [leaf.size for leaf in dim.leaves()]
            sizes |= {math.prod(own[i:j]) for i, j in _runs(len(own))}
    for chain in program.blocks:
        sizes |= {len(chain), len(chain) * chain.period}
    return frozenset(sizes)


def moved_sizes(program: Program) -> frozenset[tuple[int, int]]:
    """Sizes of axes, of neighbouring axes of a dim together and of chains, as (before, after), in which the
    program differs from those that it came from.
    """
    pairs: set[tuple[int, int]] = set()
    lineage = program.lineage
    while lineage is not None:
        before = lineage.parent
        ours = program.axes.tensor_dims
        for name, dims in before.axes.tensor_dims.items():
            for old, new in zip(dims, ours.get(name, ()), strict=False):
                pairs |= set(_moved_runs(old, new))
        lengths = {chain.name: len(chain) for chain in before.blocks}
        pairs |= {(lengths[chain.name], len(chain)) for chain in program.blocks if chain.name in lengths}
        lineage = before.lineage
    return frozenset((old, new) for old, new in pairs if old != new)


def _moved_runs(old: Dim, new: Dim) -> Iterator[tuple[int, int]]:
    """The sizes of neighbouring axes of a dim together, before and after."""
    sizes, others = ([leaf.size for leaf in dim.leaves()] for dim in (old, new))
    if len(sizes) == len(others):
        yield from ((math.prod(sizes[i:j]), math.prod(others[i:j])) for i, j in _runs(len(sizes)))


def _runs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i + 1, count + 1))


def layer_picks(program: Program) -> Iterator[Layers]:
    """How the places of every chain that changed are picked from the chain before, over all steps of the
    lineage.
    """
    lineage: Lineage | None = program.lineage
    if lineage is not None and lineage.direction == "down" and lineage.layers:
        yield from _stacks(lineage)
    picks: dict[str, tuple[int, ...]] = {}
    while lineage is not None:
        grows = lineage.direction == "up"
        chains = {chain.name: chain.period for chain in lineage.parent.blocks} if lineage.layers else {}
        for name, grouping in layers_of(lineage).items():
            period, groups = chains.get(name, 1), grouping.coarse_of
            starts = groups if grows else tuple(group[0] for group in grouping.kept)
            step = tuple(start * period + at for start in starts for at in range(period))
            picks[name] = tuple(step[at] for at in picks[name]) if name in picks else step
            before = (max(groups) + 1 if grows else len(groups)) * period
            yield Layers(before, picks[name])
        lineage = lineage.parent.lineage


def _stacks(lineage: Lineage) -> Iterator[Layers]:
    """How the places of numbered modules that hold several chains, or more than one, are picked."""
    groupings = layers_of(lineage)
    parent = lineage.parent
    by_prefix: defaultdict[str, dict[int, Chain]] = defaultdict(dict)
    for chain in parent.blocks:
        if chain.prefix is not None:
            by_prefix[chain.prefix][chain.start] = chain
    for prefix, starting in by_prefix.items():
        numbers = [n for name in parent.tensors if (n := number_under(name, prefix)) is not None]
        picks: list[int] = []
        place = 0
        while place <= max(numbers, default=-1):
            here = starting.get(place)
            taken = here.numbers if here is not None else range(place, place + 1)
            grouping = groupings.get(here.name) if here is not None else None
            if here is None or grouping is None:
                picks += taken
            else:
                firsts = (group[0] for group in grouping.kept)
                picks += [n for first in firsts for n in taken[first * here.period :][: here.period]]
            place += len(taken)
        yield Layers(place, tuple(picks))
