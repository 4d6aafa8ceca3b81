"""Chains of repeated blocks, as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from mlgraph.program.display import Shown
from mlgraph.program.numbering import Numbered, number_under, renumber


@dataclass(frozen=True)
class Block:
    """One block of a chain: a segment of the graph that one activation enters and one leaves.

    ``nodes`` are all its nodes in graph order. ``aligned`` are those that have a counterpart in every
    block, position i of one block answering position i of another; so do ``tensors`` (canonical
    names of tensors that only this block reads). ``entry`` lies outside the block, ``exit`` inside.
    ``sides`` are the other outside nodes that it reads, the same in all blocks; of a first block that is fed
    with what all of them read, the entry is among them. ``extras`` are nodes other than the exit that are
    read outside (or are results of the program).
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
