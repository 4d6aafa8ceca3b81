"""What the looking verbs tell of a program, as plain data that can be kept and read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlgraph.errors import MlgraphError
from mlgraph.inspect.modules import Module, modules
from mlgraph.inspect.summary import Summary, summarize
from mlgraph.passes.options import WrongValue, conform
from mlgraph.program.axis_table import Axis
from mlgraph.program.families import judged

if TYPE_CHECKING:
    from mlgraph.program import Input, Program
    from mlgraph.program.block_table import BlockTable


@dataclass(frozen=True)
class ChainPortrait:
    """A chain of blocks: the tensors and nodes of each, and how many ``parameters`` the first has.

    ``parameters`` is None where that is not known.
    """

    name: str
    period: int
    shared: tuple[str, ...]
    tensors: tuple[tuple[str, ...], ...]
    nodes: tuple[tuple[str, ...], ...]
    parameters: int | None = None


@dataclass(frozen=True)
class BlocksPortrait:
    """The chains of a program, and why modules that look alike are in none."""

    chains: tuple[ChainPortrait, ...]
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class Portrait:
    """A program's figures, modules, axes, blocks, inputs and notes.

    ``forward`` are the operations of a forward pass of the example batch, which has ``per`` tokens or
    examples; ``inputs`` are names with types and sizes in words.
    """

    figures: Summary
    tree: Module
    axes: tuple[Axis, ...]
    blocks: BlocksPortrait
    inputs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    forward: int
    per: int


def portrait(program: Program) -> Portrait:
    """The portrait of a program; reads no tensor but constants."""
    from mlgraph.graph.flops import flops_at

    counted = flops_at(program)
    tensors = program.tensors.meta()
    held = {name: tensors[name].numel() for name in program.tensors.parameters}
    return Portrait(
        summarize(program),
        modules(program),
        judged(program),
        blocks_portrait(program.blocks, held),
        inputs(program),
        tuple(map(str, program.notes)),
        counted.forward,
        max(counted.tokens, counted.samples, 1),
    )


def inputs(program: Program) -> tuple[tuple[str, str], ...]:
    """The tensors that a program takes, each with its type and sizes, dynamic ones by name."""
    return tuple((leaf.name, _described(leaf)) for leaf in program.signature.inputs if leaf.is_tensor)


def _described(leaf: Input) -> str:
    symbols = leaf.symbols or (None,) * len(leaf.shape)
    sizes = [symbol or str(number) for symbol, number in zip(symbols, leaf.shape, strict=True)]
    return f"{str(leaf.dtype).removeprefix('torch.')}[{', '.join(sizes)}]"


def blocks_portrait(blocks: BlockTable, held: Mapping[str, int] | None = None) -> BlocksPortrait:
    """A block table as plain data; ``held`` gives the scalars in each parameter."""
    chains = tuple(
        ChainPortrait(
            chain.name,
            chain.period,
            chain.shared,
            tuple(block.tensors for block in chain),
            tuple(block.nodes for block in chain),
            None if held is None else sum(held.get(name, 0) for name in chain.blocks[0].tensors),
        )
        for chain in blocks
    )
    return BlocksPortrait(chains, blocks.rejected)


def from_record(kind: type[Any], record: Any) -> Any:
    """The dataclass of a record, every field of the type that it declares; None where one is not."""
    try:
        found = conform(record, kind)
    except (MlgraphError, WrongValue):
        return None
    return found if isinstance(found, kind) else None
