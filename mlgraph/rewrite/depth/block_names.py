"""Names of tensors, aliases and modules after the blocks of chains were laid out anew."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from mlgraph.program import Program, Tensors
from mlgraph.program.numbering import number_under, renumber
from mlgraph.program.tensors import InMemory

if TYPE_CHECKING:
    from mlgraph.program.block_table import Chain


@dataclass(frozen=True)
class OldTensor:
    """Where a tensor of a restacked program comes from.

    ``name`` is the tensor of the old program. For a tensor of a block, ``chain`` is the chain's
    name, ``block`` the new block's index and ``position`` the place in ``Block.tensors``.
    """

    name: str
    chain: str | None = None
    block: int = 0
    position: int | None = None


@dataclass(frozen=True)
class Labels:
    """Old names to new ones, for chains (all of a program's) with their layouts."""

    chains: tuple[Chain, ...]
    layouts: tuple[tuple[int, ...], ...]

    def shift(self, prefix: str | None, number: int) -> int:
        """By how much a number under ``prefix`` moves because chains before it grow or shrink."""
        if prefix is None:
            return 0
        return sum(
            chain.period * (len(layout) - len(chain))
            for chain, layout in zip(self.chains, self.layouts, strict=True)
            if chain.prefix == prefix and chain.numbers.stop <= number
        )

    def block_path(self, index: int, block: int, path: str, home: int | None = None) -> str:
        """A module or tensor path inside a block of chain ``index``, as it reads in new block ``block``.

        ``home`` is the old block that it belongs to, where its number alone does not tell: a block may end in
        what the next numbered module begins with.
        """
        chain = self.chains[index]
        old = chain.block_of(path) if home is None else home
        number = None if chain.prefix is None else number_under(path, chain.prefix)
        if chain.prefix is None or old is None or number is None:
            return path
        shift = self.shift(chain.prefix, chain.start)
        return renumber(path, chain.prefix, number + chain.period * (block - old) + shift)

    def outside_path(self, path: str) -> str:
        """A path that belongs to no block: numbers that follow a chain's close up or move on."""
        for chain, layout in zip(self.chains, self.layouts, strict=True):
            if chain.prefix is None or (number := number_under(path, chain.prefix)) is None:
                continue
            moved = number + self.shift(chain.prefix, number)
            if number in chain.numbers:
                # A tensor of the first block that all blocks read stays with the first block.
                offset = number - chain.start
                moved = moved - offset + min(offset, chain.period * len(layout) - 1)
            elif any(other.prefix == chain.prefix and number in other.numbers for other in self.chains):
                continue
            return renumber(path, chain.prefix, moved)
        return path

    def block_tensor(self, index: int, block: int, position: int) -> str:
        """The name of the tensor at a position of new block ``block`` of chain ``index``."""
        chain = self.chains[index]
        old = chain.blocks
        if block < len(old):
            return self.block_path(index, block, old[block].tensors[position], block)
        if pattern := chain.numbering[position]:
            name = pattern(block)
            if chain.prefix is None:
                return name
            moved = self.shift(chain.prefix, chain.start)
            number = number_under(name, chain.prefix)
            return name if number is None else renumber(name, chain.prefix, number + moved)
        name = old[-1].tensors[position]
        renamed = self.block_path(index, block, name, len(old) - 1)
        return renamed if renamed != name else _another(name, old[0].tensors[position], block)


def _another(name: str, first: str, block: int) -> str:
    """A new name in the manner of ``name``: a number is added where it differs from ``first``."""
    parts = name.split(".")
    differing = [
        at for at, pair in enumerate(zip(parts, first.split("."), strict=False)) if pair[0] != pair[1]
    ]
    at = differing[0] if differing else len(parts) - 1
    return ".".join([*parts[:at], f"{parts[at]}_{block}", *parts[at + 1 :]])


def relabel_tensors(program: Program, labels: Labels, used: frozenset[str]) -> dict[str, OldTensor]:
    """Every tensor of the new program in state-dict order, with its source.

    ``used`` are the tensors that the old graph reads; unread ones in a block's numbered module go
    where the block goes.
    """
    place = {
        name: (index, block.index, position)
        for index, chain in enumerate(labels.chains)
        for block in chain.blocks
        for position, name in enumerate(block.tensors)
    }
    order = {name: at for at, name in enumerate(program.tensors)}
    made: dict[str, OldTensor] = {}

    def add_blocks(index: int, blocks: Sequence[int], positions: Sequence[int]) -> None:
        chain, layout = labels.chains[index], labels.layouts[index]
        for block in blocks:
            for position in positions:
                old = chain.blocks[layout[block]].tensors[position]
                name = _free(labels.block_tensor(index, block, position), made)
                made[name] = OldTensor(old, chain.name, block, position)

    for name in program.tensors:
        if name not in place:
            for renamed, source in _outside(labels, program.tensors, name, name in used):
                made[_free(renamed, made)] = OldTensor(source)
            continue
        index, block, position = place[name]
        chain, layout = labels.chains[index], labels.layouts[index]
        if block < len(layout):
            add_blocks(index, [block], [position])
        if block == len(chain) - 1 and len(layout) > len(chain):
            grown = range(len(chain), len(layout))
            last = max(chain.blocks[-1].tensors, key=order.__getitem__)
            if not _block_by_block(chain, order):
                add_blocks(index, grown, [position])
            elif name == last:
                positions = range(len(chain.blocks[-1].tensors))
                add_blocks(index, grown, sorted(positions, key=lambda p: order[chain.blocks[-1].tensors[p]]))
    return made


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _block_by_block(chain: Chain, order: Mapping[str, int]) -> bool:
    spans = [[order[name] for name in block.tensors] for block in chain.blocks]
    return all(max(before) < min(after) for before, after in pairwise(spans))


def _outside(labels: Labels, tensors: Tensors, name: str, used: bool) -> Iterator[tuple[str, str]]:
    """New and old names of a tensor that is in no block; an unread one comes along with its block."""
    for index, (chain, layout) in enumerate(zip(labels.chains, labels.layouts, strict=True)):
        old = None if used else chain.block_of(name)
        if old is None:
            continue
        grown = range(len(chain), len(layout)) if old == len(chain) - 1 else range(0)
        for block in [old, *grown] if old < len(layout) else []:
            counterpart = chain.moved(name, layout[block])
            if counterpart in tensors:
                yield labels.block_path(index, block, name), counterpart
        return
    yield labels.outside_path(name), name


def relabel(program: Program, labels: Labels, sources: Mapping[str, OldTensor]) -> Tensors:
    """The new tensors' kinds and ties; values are read from the old program by name, copies cloned."""
    old = program.tensors
    first: dict[str, str] = {}
    for name, source in sources.items():
        first.setdefault(source.name, name)
    parameters = frozenset(name for name, source in sources.items() if source.name in old.parameters)
    persistent = {name for name, source in sources.items() if source.name in old.persistent}
    in_block = {(source.name, source.block): name for name, source in sources.items() if source.chain}
    aliases: dict[str, str] = {}
    was: dict[str, str] = {}
    for alias, canonical in old.aliases.items():
        for renamed, block in _alias_names(labels, alias):
            target = in_block.get((canonical, block)) if block is not None else None
            target = target or first.get(canonical)
            if target is not None and renamed not in sources:
                aliases[renamed] = target
                was[renamed] = alias
    for renamed, canonical in _shared_names(labels):
        if renamed not in sources and renamed not in aliases:
            aliases[renamed] = first[canonical]
            was[renamed] = canonical
    persistent |= {renamed for renamed, name in was.items() if name in old.persistent}
    values = {
        name: old[source.name] if first[source.name] == name else _copy(old[source.name])
        for name, source in sources.items()
    }
    digests = {n: old.digests[s.name] for n, s in sources.items() if s.name in old.digests}
    frozen = frozenset(name for name, source in sources.items() if source.name in old.frozen)
    stateful = frozenset(name for name, source in sources.items() if source.name in old.stateful)
    return Tensors(InMemory(values), parameters, frozenset(persistent), aliases, digests, frozen, stateful)


def _shared_names(labels: Labels) -> Iterator[tuple[str, str]]:
    """New names of tensors that all blocks of a chain share and one holds, with the old."""
    for index, (chain, layout) in enumerate(zip(labels.chains, labels.layouts, strict=True)):
        for canonical in chain.shared:
            holding = [block for block, of in enumerate(layout) if chain.block_of(canonical) == of]
            yield from ((labels.block_path(index, block, canonical), canonical) for block in holding)


def _alias_names(labels: Labels, alias: str) -> Iterator[tuple[str, int | None]]:
    for index, (chain, layout) in enumerate(zip(labels.chains, labels.layouts, strict=True)):
        old = chain.block_of(alias)
        if old is not None:
            yield from (
                (labels.block_path(index, b, alias), b) for b, source in enumerate(layout) if source == old
            )
            return
    yield labels.outside_path(alias), None


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.detach().clone()
    return torch.nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else copy
