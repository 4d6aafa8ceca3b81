"""Repeated blocks: periodic chains of isomorphic segments of the dataflow graph.

The cut points of a graph (see :mod:`mlgraph.graph.dataflow`) divide it into atoms, each with one activation
coming in and one going out. Atoms have canonical digests, and a chain is a periodic run of them: the
block is one period, rotated so that its ends agree with the numbers in parameter names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

from torch import fx

from mlgraph.blocks.near_misses import near_misses
from mlgraph.blocks.partition import Partition
from mlgraph.blocks.periodic import divisions, find_runs
from mlgraph.graph.dataflow import Dataflow
from mlgraph.program import Program
from mlgraph.program.display import Shown
from mlgraph.program.numbering import Numbered, common_path, number_under, numbered, renumber


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
    many numbered modules one block spans. ``prefix`` is what stands before the module number in the
    names of tensors, ``start`` the first number; without such numbers ``prefix`` is None.
    ``numbering`` tells, per tensor position, how the name follows from the block's index (None where
    it doesn't). ``shared`` are tensors that all blocks read.
    """

    name: str
    blocks: tuple[Block, ...]
    period: int = 1
    prefix: str | None = None
    start: int = 0
    numbering: tuple[Numbered | None, ...] = ()
    shared: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    @property
    def numbers(self) -> range:
        """The module numbers that the chain takes under :attr:`prefix`; empty without one."""
        count = 0 if self.prefix is None else self.period * len(self.blocks)
        return range(self.start, self.start + count)

    def block_of(self, path: str) -> int | None:
        """The index of the block to whose numbered module a module or tensor belongs, by its name."""
        number = None if self.prefix is None else number_under(path, self.prefix)
        return (number - self.start) // self.period if number is not None and number in self.numbers else None

    def moved(self, path: str, block: int) -> str:
        """The path of the same module or tensor in another block's numbered module."""
        old = self.block_of(path)
        if self.prefix is None or old is None:
            return path
        number = number_under(path, self.prefix)
        assert number is not None
        return renumber(path, self.prefix, number + self.period * (block - old))

    def columns(self) -> Iterator[tuple[str, ...]]:
        """Per tensor position, its name in each block."""
        return zip(*(block.tensors for block in self.blocks), strict=True)


@dataclass(frozen=True)
class BlockTable(Shown, Sequence[Chain]):
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


def find_blocks(program: Program) -> BlockTable:
    """The chains of repeated blocks of a program, in graph order; near misses under ``rejected``."""
    flow = Dataflow(program)
    claimed: set[fx.Node] = set()
    found: list[tuple[int, Chain]] = []
    for run in find_runs(flow):
        for partition, first, last in divisions(flow, run, claimed):
            chain = _chain(flow, partition, first, last)
            if chain is not None:
                claimed.update(*partition.cores[first:last])
                found.append((flow.order[partition.bounds[first]], chain))
    found.sort(key=lambda item: item[0])
    chains = _name_apart([chain for _, chain in found])
    return BlockTable(chains, tuple(near_misses(flow, chains)))


def _chain(flow: Dataflow, partition: Partition, first: int, last: int) -> Chain | None:
    """The chain of blocks ``first..last`` of a partition, or None when they only seemed isomorphic."""
    matches = []
    for block in range(first, last):
        match = partition.match(first, block)
        if match is None:
            return None
        matches.append(match)
    position = {name: i for i, name in enumerate(flow.program.tensors)}
    own = sorted((node for node in matches[0] if partition.inside(node, first)), key=flow.order.__getitem__)
    tensors = [node for node in own if node.op == "get_attr"]
    tensors.sort(key=lambda node: position[str(node.target)])
    names = [[str(match[node].target) for node in tensors] for match in matches]
    named = _numbered_chain(flow, names)
    if named is None:
        return None
    chain: Chain = named
    if chain.prefix is None:
        modules = [
            str(node.meta.get("module") or "") for core in partition.cores[first:last] for node in core
        ]
        chain = replace(chain, name=common_path(modules))

    def block_of(path: str) -> int | None:
        number = None if chain.prefix is None else number_under(path, chain.prefix)
        return None if number is None else first + (number - chain.start) // chain.period

    ends = partition.ends(first, last, block_of)
    blocks = [
        _block(flow, partition, block, ends, [match[node] for node in own], [match[node] for node in tensors])
        for block, match in zip(range(first, last), matches, strict=True)
    ]
    targets = {node.name: str(node.target) for node in flow.nodes if node.op == "get_attr"}
    shared = tuple(targets[side] for side in blocks[0].sides if side in targets)
    chain = replace(chain, blocks=tuple(blocks), shared=shared)
    return _numbered_by_aliases(flow, chain) if not tensors else chain


def _one_step_apart(names: Sequence[str]) -> bool:
    """Whether paths differ in one step alone: ``first.norm`` and ``second.norm``, of one module's blocks."""
    steps = [name.split(".") for name in names]
    same_length = len({len(path) for path in steps}) == 1
    return same_length and sum(len(set(column)) > 1 for column in zip(*steps, strict=True)) <= 1


def _numbered_by_aliases(flow: Dataflow, chain: Chain) -> Chain:
    """A chain whose blocks share all tensors, numbered where each layer has its own name for them."""
    names: dict[str, list[str]] = {name: [name] for name in chain.shared}
    for alias, canonical in flow.program.tensors.aliases.items():
        if canonical in names:
            names[canonical].append(alias)
    patterns = [numbered(known) if len(known) > 1 else None for known in names.values()]
    numbers: set[int] = set()
    for pattern, known in zip(patterns, names.values(), strict=True):
        if pattern is None or not pattern.prefix.endswith("."):
            return chain
        numbers.update(pattern.start + pattern.step * at for at in range(len(known)))
    prefixes = {pattern.prefix for pattern in patterns if pattern}
    period, rest = divmod(len(numbers), len(chain.blocks))
    if len(prefixes) != 1 or rest or max(numbers) - min(numbers) + 1 != len(numbers):
        return chain
    prefix = prefixes.pop()
    return replace(chain, name=prefix.rstrip("."), period=period, prefix=prefix, start=min(numbers))


def _numbered_chain(flow: Dataflow, names: Sequence[Sequence[str]]) -> Chain | None:
    """Name, period and numbering of a chain from the tensor names of its blocks; None where blocks lie in
    different modules.
    """
    stored = flow.program.tensors.parameters | flow.program.tensors.persistent
    columns = list(zip(*names, strict=True))
    patterns = tuple(numbered(column) for column in columns)
    judged = []
    for pattern, column in zip(patterns, columns, strict=True):
        if column[0] in stored:
            judged.append(pattern)
            if pattern is None and not _one_step_apart(column):
                return None
    chain = Chain("", (), numbering=patterns)
    prefixes = {(pattern.prefix, pattern.step) if pattern else None for pattern in judged}
    if len(prefixes) != 1 or (only := prefixes.pop()) is None:
        return chain
    prefix, step = only
    start = min(pattern.start for pattern in judged if pattern)
    if not prefix.endswith("."):
        return chain
    return replace(chain, name=prefix.rstrip("."), period=step, prefix=prefix, start=start)


def _block(
    flow: Dataflow,
    partition: Partition,
    block: int,
    ends: Mapping[int, fx.Node],
    aligned: Sequence[fx.Node],
    tensors: Sequence[fx.Node],
) -> Block:
    entry, exit = ends[block], ends[block + 1]
    nodes = partition.members(block, ends)
    inside = set(nodes)
    sides = dict.fromkeys(arg for node in nodes for arg in node.all_input_nodes if arg not in inside)
    sides.pop(entry, None)
    return Block(
        index=block - min(ends),
        nodes=tuple(node.name for node in nodes),
        aligned=tuple(node.name for node in aligned),
        tensors=tuple(str(node.target) for node in tensors),
        entry=entry.name,
        exit=exit.name,
        sides=tuple(side.name for side in sides),
        extras=tuple(
            node.name
            for node in nodes
            if node is not exit and not inside.issuperset(user for user in node.users if flow.is_live(user))
        ),
    )


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
