"""Repeated blocks: periodic chains of isomorphic segments of the dataflow graph.

The cut points of a graph (see :mod:`mlgraph.dataflow`) divide it into atoms, each with one activation
coming in and one going out. Atoms have canonical digests, and a chain is a periodic run of them: the
block is one period, rotated so that its ends agree with the numbers in parameter names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from torch import fx

from mlgraph.dataflow import Dataflow, is_tensor_valued
from mlgraph.isomorphism import Partition, describe_difference
from mlgraph.numbering import Numbered, common_path, number_under, numbered, stretches
from mlgraph.program import Program


@dataclass(frozen=True)
class Block:
    """One block of a chain: a segment of the graph that one activation enters and one leaves.

    ``nodes`` are all its nodes in graph order. ``aligned`` are those that have a counterpart in every
    block, position i of one block answering position i of another; so do ``tensors`` (canonical
    names of tensors that only this block reads). ``entry`` lies outside the block, ``exit`` inside.
    ``sides`` are the other outside nodes that it reads, the same in all blocks; ``extras`` are nodes
    other than the exit that are read outside (or are results of the program).
    """

    index: int
    nodes: tuple[str, ...]
    aligned: tuple[str, ...]
    tensors: tuple[str, ...]
    entry: str
    exit: str
    sides: tuple[str, ...]
    extras: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Isomorphic blocks, each fed by the one before.

    ``name`` is the path that the numbered modules share (``"encoder.layer"``); ``period`` is how
    many numbered modules one block spans. ``numbering`` tells, per tensor position, how names follow
    from the block's index (None where they don't). ``shared`` are tensors that all blocks read.
    """

    name: str
    period: int
    blocks: tuple[Block, ...]
    numbering: tuple[Numbered | None, ...]
    shared: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    @property
    def prefix(self) -> str | None:
        """What stands before the block number in every tensor name, or None if they have no one prefix."""
        prefixes = {pattern.prefix if pattern else None for pattern in self.numbering}
        return prefixes.pop() if len(prefixes) == 1 else None

    @property
    def numbers(self) -> range:
        """The module numbers that the chain takes under :attr:`prefix`."""
        starts = [pattern.start for pattern in self.numbering if pattern]
        return range(min(starts), min(starts) + self.period * len(self.blocks)) if starts else range(0)

    def block_of(self, path: str) -> int | None:
        """The index of the block to whose numbered module ``path`` belongs, by name."""
        if self.prefix is None or (number := number_under(path, self.prefix)) not in self.numbers:
            return None
        return (number - self.numbers.start) // self.period

    def columns(self) -> Iterator[tuple[str, ...]]:
        """Per tensor position, its name in each block."""
        return zip(*(block.tensors for block in self.blocks), strict=True)


@dataclass(frozen=True)
class BlockTable(Sequence[Chain]):
    """The chains of a program, and why numbered modules that look alike are in none (``rejected``)."""

    chains: tuple[Chain, ...]
    rejected: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Chain: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Chain, ...]: ...
    def __getitem__(self, index: int | slice) -> Chain | tuple[Chain, ...]:
        return self.chains[index]

    def __len__(self) -> int:
        return len(self.chains)

    def named(self, name: str) -> Chain:
        """The chain of that name; KeyError with the names there are."""
        for chain in self.chains:
            if chain.name == name:
                return chain
        known = ", ".join(chain.name for chain in self.chains) or "none"
        raise KeyError(f"there is no chain {name!r} (chains: {known})")

    def __str__(self) -> str:
        header = ("chain", "blocks", "period", "nodes", "tensors", "shared", "sides", "extras")
        rows = [header]
        for chain in self.chains:
            first = chain.blocks[0]
            counts = (len(chain), chain.period, len(first.nodes), len(first.tensors))
            outside = (len(chain.shared), len(first.sides), len(first.extras))
            rows.append((chain.name, *(str(count) for count in counts + outside)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join(
            [*(line.rstrip() for line in lines), *(f"not in a chain: {why}" for why in self.rejected)]
        )


@dataclass(frozen=True)
class _Path:
    """One path of cut points with the digest and tensors of each atom between consecutive cuts."""

    cuts: tuple[fx.Node, ...]
    within: Mapping[fx.Node, fx.Node]
    digests: tuple[int, ...]
    atoms: tuple[tuple[fx.Node, ...], ...]
    names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Run:
    """Atoms ``start..stop`` of a path, which repeat with ``period``."""

    path: _Path
    start: int
    stop: int
    period: int

    @property
    def weight(self) -> int:
        """Nodes in the whole periods."""
        whole = (self.stop - self.start) // self.period * self.period
        return sum(len(atom) for atom in self.path.atoms[self.start : self.start + whole])


def find_blocks(program: Program) -> BlockTable:
    """The chains of repeated blocks of a program, in graph order; near misses under ``rejected``."""
    flow = Dataflow(program)
    paths = _paths(flow)
    runs = [run for path in paths for run in _runs(path)]
    runs.sort(key=lambda run: (-run.weight, run.period))
    claimed: set[fx.Node] = set()
    found: list[tuple[int, Chain]] = []
    for run in runs:
        for partition, first, last in _partitions(flow, run, claimed):
            chain = _chain(flow, partition, first, last)
            if chain is not None:
                claimed.update(*partition.cores[first:last])
                found.append((flow.order[partition.bounds[first]], chain))
    found.sort(key=lambda item: item[0])
    chains = _name_apart([chain for _, chain in found])
    return BlockTable(chains, tuple(_near_misses(flow, paths, chains)))


def _paths(flow: Dataflow) -> list[_Path]:
    absolute: dict[fx.Node, int] = {}
    tensors: dict[fx.Node, tuple[str, ...]] = {}
    paths: list[_Path] = []
    seen: set[tuple[fx.Node, ...]] = set()
    for source in _sources(flow):
        within = flow.dominators(source)
        for cuts in flow.cut_paths(source):
            key = tuple(cuts[1:])
            if len(cuts) < 3 or key in seen:
                continue
            seen.add(key)
            digests, atoms, names = [], [], []
            for entry, exit in zip(cuts, cuts[1:], strict=False):

                def leaf(node: fx.Node, entry: fx.Node = entry) -> object:
                    if node is entry:
                        return "entry"
                    return None if node in within else flow.digest(node, absolute, lambda _: None)

                digests.append(flow.digest(exit, {}, leaf))
                atom = flow.between(entry, exit, within)
                atoms.append(tuple(atom))
                names.append(
                    tuple(
                        dict.fromkeys(n for node in atom for n in _tensors_read(flow, node, within, tensors))
                    )
                )
            paths.append(_Path(tuple(cuts), within, tuple(digests), tuple(atoms), tuple(names)))
    return paths


def _sources(flow: Dataflow) -> list[fx.Node]:
    """Where an activation stream may begin: tensor inputs, looked-up embeddings, parameters used as activations."""
    sources: dict[fx.Node, None] = {}
    for node in flow.nodes:
        if node.op == "placeholder" and is_tensor_valued(node):
            sources[node] = None
        elif str(node.target).startswith("aten.embedding."):
            sources[node] = None
        elif node.op == "call_function" and flow.data[node]:
            if all(arg.op == "get_attr" for arg in flow.data[node]) and is_tensor_valued(node):
                sources[node] = None
    return [source for source in sources if not flow.is_transparent(source)]


def _tensors_read(
    flow: Dataflow, node: fx.Node, within: Mapping[fx.Node, fx.Node], memo: dict[fx.Node, tuple[str, ...]]
) -> tuple[str, ...]:
    """Names of tensors that feed ``node`` other than through activations."""
    found: dict[str, None] = {}
    for arg in flow.data[node]:
        if arg in within:
            continue
        if arg not in memo:
            memo[arg] = (str(arg.target),) if arg.op == "get_attr" else _tensors_read(flow, arg, {}, memo)
        found.update(dict.fromkeys(memo[arg]))
    return tuple(found)


def _runs(path: _Path) -> list[_Run]:
    """Maximal periodic stretches of at least two periods, each with its smallest period."""
    digests = np.asarray(path.digests)
    runs: list[_Run] = []
    for period in range(1, len(digests) // 2 + 1):
        same = np.concatenate([[False], digests[:-period] == digests[period:], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            run = _Run(path, start, stop + period, period)
            known = any(
                period % other.period == 0 and other.start <= run.start and run.stop <= other.stop
                for other in runs
            )
            if stop - start >= period and not known:
                runs.append(run)
    return runs


def _partitions(flow: Dataflow, run: _Run, claimed: set[fx.Node]) -> Iterator[tuple[Partition, int, int]]:
    """The best division of a run into blocks, as stretches ``first..last`` of isomorphic blocks of one partition.

    A multiple of the run's period is taken where single periods differ in what they share
    (alternating masks): the smallest one that covers most.
    """
    atoms = range(run.start, run.stop)
    free = [not claimed.intersection(run.path.atoms[atom]) for atom in atoms]
    for start, stop in _stretches_of(free):
        best: tuple[int, Partition, list[tuple[int, int]]] | None = None
        length = stop - start
        for period in range(run.period, length // 2 + 1, run.period):
            rotation, numbered_stretches = _rotation(run.path, run.start + start, run.start + stop, period)
            bounds = run.path.cuts[run.start + start + rotation : run.start + stop + 1 : period]
            partition = Partition.of(flow, bounds, run.path.within)
            same = partition.same_stretches()
            if numbered_stretches:
                same = [
                    (max(a, c), min(b, d))
                    for a, b in same
                    for c, d in numbered_stretches
                    if min(b, d) - max(a, c) >= 2
                ]
            same = [(a, b) for a, b in same if partition.reads_parameters(a)]
            covered = sum(len(core) for a, b in same for core in partition.cores[a:b])
            if best is None or covered > best[0]:
                best = (covered, partition, same)
            if covered == sum(len(core) for core in partition.cores):
                break
        if best is not None:
            for first, last in best[2]:
                yield best[1], first, last


def _stretches_of(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    start = 0
    for position, flag in enumerate([*flags, False]):
        if not flag:
            if position > start:
                yield start, position
            start = position + 1


def _rotation(path: _Path, start: int, stop: int, period: int) -> tuple[int, list[tuple[int, int]]]:
    """Where in the period blocks begin, and the stretches of blocks whose names count up together.

    Preferred in this order: most blocks with names that count up, most blocks, the deepest common
    path of the tensors of a block, the earliest.
    """
    best: tuple[tuple[int, int, int, int], list[tuple[int, int]]] | None = None
    for rotation in range(min(period, stop - start - 2 * period + 1)):
        count = (stop - start - rotation) // period
        names = [
            [n for atom in range(period) for n in path.names[start + rotation + period * block + atom]]
            for block in range(count)
        ]
        found = stretches(names)
        depth = sum(len(common_path(block).split(".")) for block in names if block)
        score = (sum(b - a for a, b in found), count, depth, -rotation)
        if best is None or score > best[0]:
            best = (score, found)
    assert best is not None
    return -best[0][3], best[1]


def _chain(flow: Dataflow, partition: Partition, first: int, last: int) -> Chain | None:
    """The chain of blocks ``first..last`` of a partition, or None when they only seemed isomorphic."""
    matches = [partition.match(first, block) for block in range(first, last)]
    if any(match is None for match in matches):
        return None
    position = {name: i for i, name in enumerate(flow.program.tensors)}
    pairs = sorted(matches[0] or {}, key=flow.order.__getitem__)
    tensors = [node for node in pairs if node.op == "get_attr" and partition.owner.get(node) == first]
    tensors.sort(key=lambda node: position.get(str(node.target), len(position)))
    aligned_nodes = [node for node in pairs if partition.inside(node, first)]
    columns = [tuple(str(match[node].target) for match in matches if match) for node in tensors]
    numbering = tuple(numbered(column) for column in columns)
    starts: dict[str, list[Numbered]] = {}
    for pattern in numbering:
        if pattern:
            starts.setdefault(pattern.prefix, []).append(pattern)
    one = len(starts) == 1 and all(numbering)
    period = next(iter(starts.values()))[0].step if one else 1
    draft = Chain("", period, (), numbering)
    if one:
        low = min(pattern.start for pattern in numbering if pattern)
        number = {
            block: range(low + period * (block - first), low + period * (block - first + 1))
            for block in range(first, last)
        }
        prefix = next(iter(starts))

        def block_of(path: str) -> int | None:
            found = number_under(path, prefix)
            return next((block for block, span in number.items() if found in span), None)

        name = prefix.rstrip(".") if prefix.endswith(".") else ""
    else:

        def block_of(path: str) -> int | None:
            return None

        modules = [
            str(node.meta.get("module") or "") for core in partition.cores[first:last] for node in core
        ]
        name = common_path(modules)
    ends = partition.ends(first, last, block_of)
    blocks = []
    shared: dict[str, None] = {}
    for index, block in enumerate(range(first, last)):
        match = matches[index] or {}
        nodes = partition.members(block, ends)
        inside = set(nodes)
        sides = dict.fromkeys(
            arg
            for node in nodes
            for arg in node.all_input_nodes
            if arg not in inside and arg is not ends[block]
        )
        exit = ends[block + 1]
        extras = [
            node
            for node in nodes
            if node is not exit
            and node.op != "get_attr"
            and any(user not in inside for user in node.users if user in flow.order or user is flow.output)
        ]
        shared.update(dict.fromkeys(str(side.target) for side in sides if side.op == "get_attr"))
        blocks.append(
            Block(
                index=index,
                nodes=tuple(node.name for node in nodes),
                aligned=tuple(match[node].name for node in aligned_nodes),
                tensors=tuple(str(match[node].target) for node in tensors),
                entry=ends[block].name,
                exit=exit.name,
                sides=tuple(side.name for side in sides),
                extras=tuple(node.name for node in extras),
            )
        )
    return replace(draft, name=name, blocks=tuple(blocks), shared=tuple(shared))


def _name_apart(chains: list[Chain]) -> tuple[Chain, ...]:
    """Chains under distinct names: numbers are added where modules of one list form several chains."""
    names = [chain.name for chain in chains]
    renamed = []
    for position, chain in enumerate(chains):
        if not chain.name:
            chain = replace(chain, name=f"chain{names[:position].count('')}")
        elif names.count(chain.name) > 1:
            span = chain.numbers
            label = f"{span.start}:{span.stop}" if span else str(names[:position].count(chain.name))
            chain = replace(chain, name=f"{chain.name}[{label}]")
        renamed.append(chain)
    return tuple(renamed)


def _near_misses(flow: Dataflow, paths: list[_Path], chains: tuple[Chain, ...]) -> Iterator[str]:
    return iter(())
