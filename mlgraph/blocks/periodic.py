"""Periodic runs of a graph's cut segments, and how a run divides into blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mlgraph.blocks.front import extended, heads
from mlgraph.blocks.partition import Partition
from mlgraph.graph.ops import has, is_tensor_valued
from mlgraph.graph.traits import Trait
from mlgraph.program.numbering import common_path, stretches

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.graph.dataflow import Dataflow


@dataclass(frozen=True)
class Atom:
    """What lies between two consecutive cut points.

    ``digest`` is its canonical form, ``nodes`` its activation nodes and ``names`` the tensors that it
    alone reads.
    """

    digest: int
    nodes: tuple[fx.Node, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class CutPath:
    """Cut points of an activation stream, and the atoms between them.

    ``within`` are the nodes that depend on the stream's source; a ``late`` path has a source that is no input
    of the model, so that it may begin in the midst of a block.
    """

    cuts: tuple[fx.Node, ...]
    within: Mapping[fx.Node, fx.Node]
    atoms: tuple[Atom, ...]
    late: bool = False


@dataclass(frozen=True)
class PeriodicRun:
    """Atoms ``start..stop`` of a path, which repeat with ``period``."""

    path: CutPath
    start: int
    stop: int
    period: int

    @property
    def weight(self) -> int:
        """Activation nodes in its whole periods."""
        whole = (self.stop - self.start) // self.period * self.period
        return sum(len(atom.nodes) for atom in self.path.atoms[self.start : self.start + whole])


def find_runs(flow: Dataflow) -> list[PeriodicRun]:
    """All periodic runs, over every source of activations; the heaviest first."""
    atoms = _Atoms(flow)
    found: list[PeriodicRun] = []
    explained: set[fx.Node] = set()
    for source in [*_sources(flow), *heads(flow)]:
        late = not (source.op == "placeholder" or has(source, Trait.TABLE))
        if all(flow.resolve(user) in explained for user in flow.users(source)):
            continue
        within = flow.dominators(source)
        for cuts in sorted(flow.cut_paths(source), key=len, reverse=True):
            # What lies inside a repeated block is no chain of its own.
            if len(cuts) < 3 or explained.issuperset(cuts[1:]):
                continue
            path = CutPath(cuts, within, tuple(atoms.between(a, b, within) for a, b in pairwise(cuts)), late)
            for run in _runs(path):
                found.append(run)
                explained.update(*(atom.nodes for atom in path.atoms[run.start : run.stop]))
    return sorted(found, key=lambda run: (-run.weight, run.period, run.start - run.stop))


class _Atoms:
    """Atoms by their two ends; whichever source they are reached from, they are the same."""

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.known: dict[tuple[fx.Node, fx.Node], Atom] = {}
        self.absolute: dict[fx.Node, int] = {}

    def between(self, entry: fx.Node, exit: fx.Node, within: Mapping[fx.Node, fx.Node]) -> Atom:
        if (entry, exit) not in self.known:

            def leaf(node: fx.Node) -> Hashable:
                if node is entry:
                    return "entry"
                return None if node in within else self.flow.digest(node, self.absolute, lambda _: None)

            nodes = tuple(self.flow.between(entry, exit, within))
            names = tuple(_tensors_of(self.flow, nodes, within))
            self.known[entry, exit] = Atom(self.flow.digest(exit, {}, leaf), nodes, names)
        return self.known[entry, exit]


def _sources(flow: Dataflow) -> list[fx.Node]:
    """Where an activation stream may begin.

    Tensor inputs, looked-up embeddings, and tensors of the model used as activations (queries, latents).
    """
    sources = []
    for node in flow.nodes:
        if flow.is_transparent(node) or not is_tensor_valued(node):
            continue
        read = flow.data[node]
        looked_up = str(node.target).startswith("aten.embedding.")
        learned = bool(read) and all(arg.op == "get_attr" for arg in read)
        if node.op == "placeholder" or looked_up or learned:
            sources.append(node)
    return sources


def _tensors_of(flow: Dataflow, nodes: Sequence[fx.Node], within: Mapping[fx.Node, fx.Node]) -> list[str]:
    """Names, in order of use, of the stored tensors that only these nodes read."""
    tensors = flow.program.tensors
    outside: dict[fx.Node, None] = {}
    stack = [arg for node in reversed(nodes) for arg in reversed(flow.data[node]) if arg not in within]
    while stack:
        arg = stack.pop()
        if arg not in outside:
            outside[arg] = None
            stack.extend(reversed(flow.data[arg]))
    readers = set(nodes)
    for arg in sorted(outside, key=flow.order.__getitem__, reverse=True):
        if readers.issuperset(map(flow.resolve, flow.users(arg))):
            readers.add(arg)
    stored = tensors.parameters | tensors.persistent
    return [
        str(arg.target) for arg in outside if arg.op == "get_attr" and arg in readers and arg.target in stored
    ]


def _runs(path: CutPath) -> list[PeriodicRun]:
    """Maximal periodic stretches of at least two periods, each with its smallest period."""
    digests = np.asarray([atom.digest for atom in path.atoms])
    found: list[PeriodicRun] = []
    for period in range(1, len(digests) // 2 + 1):
        same = np.concatenate([[False], digests[:-period] == digests[period:], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            stop = end + period
            known = any(period % run.period == 0 and run.start <= start and stop <= run.stop for run in found)
            if end - start >= period and not known:
                found.append(PeriodicRun(path, start, stop, period))
    return found


def divisions(
    flow: Dataflow, run: PeriodicRun, claimed: set[fx.Node]
) -> Iterator[tuple[Partition, int, int]]:
    """The best division of a run into blocks: stretches ``first..last`` of like blocks of one partition.

    A multiple of the run's period is taken where single periods differ in what they share
    (alternating masks): the smallest one that covers most.
    """
    free = [not claimed.intersection(run.path.atoms[atom].nodes) for atom in range(run.start, run.stop)]
    for offset, end in _true_stretches(free):
        start, stop = run.start + offset, run.start + end
        best: tuple[int, Partition, list[tuple[int, int]]] | None = None
        for period in range(run.period, (stop - start) // 2 + 1, run.period):
            rotation, counted = _rotation(run.path, start, stop, period)
            bounds = run.path.cuts[start + rotation : stop + 1 : period]
            partition = Partition.of(flow, bounds, run.path.within)
            like = partition.same_stretches()
            if counted:
                overlaps = [(max(a, c), min(b, d)) for a, b in like for c, d in counted]
                like = [(first, last) for first, last in overlaps if last - first >= 2]
            like = [(first, last) for first, last in like if partition.reads_weights(first)]
            covered = sum(len(core) for first, last in like for core in partition.cores[first:last])
            if best is None or covered > best[0]:
                best = (covered, partition, like)
            if covered == sum(len(core) for core in partition.cores):
                break
        if best is not None:
            for first, last in best[2]:
                yield best[1], first, last


def fronted(flow: Dataflow, run: PeriodicRun, claimed: set[fx.Node]) -> Iterator[tuple[Partition, int, int]]:
    """Divisions of a run that can begin one block earlier, in the manner of :func:`divisions`.

    Where a path begins late, nothing but such a block tells where in the period blocks begin.
    """
    atoms = run.path.atoms[run.start : run.stop]
    if not run.path.late or any(not claimed.isdisjoint(atom.nodes) for atom in atoms):
        return
    for first in range(run.start, run.start + run.period):
        bounds = run.path.cuts[first : run.stop + 1 : run.period]
        if len(bounds) < 3:
            continue
        partition = Partition.of(flow, bounds, run.path.within)
        blocks = len(bounds) - 1
        if partition.same_stretches() == [(0, blocks)] and partition.reads_weights(0):
            longer = extended(partition, 0, claimed)
            if longer is not None:
                yield longer, 0, blocks + 1


def _true_stretches(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    start = 0
    for position, flag in enumerate([*flags, False]):
        if not flag:
            if position > start:
                yield start, position
            start = position + 1


def _rotation(path: CutPath, start: int, stop: int, period: int) -> tuple[int, list[tuple[int, int]]]:
    """Where in the period blocks begin, and the stretches of blocks whose names count up together.

    Preferred in this order: most blocks with names that count up, most blocks, the deepest common
    path of the tensors of a block, the earliest.
    """
    scored = []
    for rotation in range(min(period, stop - start - 2 * period + 1)):
        firsts = range(start + rotation, stop - period + 1, period)
        names = [
            [name for atom in path.atoms[first : first + period] for name in atom.names] for first in firsts
        ]
        counted = stretches(names)
        depth = sum(len(common_path(block).split(".")) for block in names if block)
        score = (sum(last - first for first, last in counted), len(names), depth, -rotation)
        scored.append((score, rotation, counted))
    _, rotation, counted = max(scored)
    return rotation, counted
