"""Repeated blocks: periodic chains of isomorphic segments of the dataflow graph.

The cut points of a graph (see :mod:`mlgraph.graph.dataflow`) divide it into atoms, each with one activation
coming in and one going out. Atoms have canonical digests, and a chain is a periodic run of them: the
block is one period, rotated so that its ends agree with the numbers in parameter names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mlgraph.blocks.near_misses import near_misses
from mlgraph.blocks.periodic import divisions, find_runs, fronted
from mlgraph.graph.constants import constants, loose_constants
from mlgraph.graph.dataflow import Dataflow
from mlgraph.program.block_table import Block, BlockTable, Chain
from mlgraph.program.numbering import common_path, number_under, numbered

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.blocks.partition import Partition
    from mlgraph.program import Program


def find_blocks(program: Program) -> BlockTable:
    """The chains of repeated blocks of a program, in graph order; near misses under ``rejected``."""
    flow = Dataflow(program)
    chains, rejected = _chains(flow, flow)
    # layers that would be one chain but for their tables: the first table of every group is taken
    for loose in (loose_constants, constants) if rejected else ():
        others, missing = _chains(flow, Dataflow(program, loose(program)))
        if _covered(others) > _covered(chains):
            chains, rejected = others, missing
    return BlockTable(chains, rejected)


def _chains(flow: Dataflow, seen: Dataflow) -> tuple[tuple[Chain, ...], tuple[str, ...]]:
    """The chains of a program as it is seen, and near misses."""
    chains = _find_chains(seen)
    return chains, tuple(near_misses(flow, chains))


def _covered(chains: Sequence[Chain]) -> int:
    return sum(len(block.nodes) for chain in chains for block in chain)


def _find_chains(flow: Dataflow) -> tuple[Chain, ...]:
    claimed: set[fx.Node] = set()
    found: list[tuple[int, Chain]] = []
    for run in find_runs(flow):
        for partition, first, last in (*fronted(flow, run, claimed), *divisions(flow, run, claimed)):
            if any(not claimed.isdisjoint(core) for core in partition.cores[first:last]):
                continue
            chain = _chain(flow, partition, first, last)
            if chain is not None:
                claimed.update(*partition.cores[first:last])
                found.append((flow.order[partition.bounds[first]], chain))
    found.sort(key=lambda item: item[0])
    return _name_apart([chain for _, chain in found])


def _chain(flow: Dataflow, partition: Partition, first: int, last: int) -> Chain | None:
    """The chain of blocks ``first..last`` of a partition, or None when they only seemed isomorphic.

    All are compared with the second: of a first one it may not be clear what it reads.
    """
    matches = []
    for block in range(first, last):
        match = partition.match(first + 1, block)
        if match is None:
            return None
        matches.append(match)
    position = {name: i for i, name in enumerate(flow.program.tensors)}
    own = sorted(matches[0], key=flow.order.__getitem__)
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
    if set(blocks[0].sides) != set(blocks[-1].sides):
        # what enters the first is also what all of them read
        if {*blocks[0].sides, blocks[0].entry} != set(blocks[-1].sides):
            return None
        blocks[0] = replace(blocks[0], sides=blocks[-1].sides)
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
