"""The chains of repeated blocks as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlgraph.inspect.text.console import bullets, shortened, table
from mlgraph.inspect.text.numbers import count

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import BlockTable

_LONGEST_NAME = 32


def block_view(program: Program) -> list[Any]:
    """One line for each chain, what its blocks share, then why modules that look alike are in none."""
    tensors = program.skeleton().tensors
    held = {name: tensors[name].numel() for name in tensors.parameters}
    return _chains(program.blocks, held)


def chain_view(blocks: BlockTable, _width: int) -> list[Any]:
    """A block table in notebooks and interpreters: the same without sizes, which it does not know."""
    return _chains(blocks, None)


def _chains(blocks: BlockTable, held: Mapping[str, int] | None) -> list[Any]:
    rows, shared = [], []
    for chain in blocks:
        first = chain.blocks[0]
        counts = (f"×{len(chain)}", chain.period, len(first.nodes), len(first.tensors))
        size = [] if held is None else [count(sum(held.get(name, 0) for name in first.tensors))]
        rows.append([shortened(chain.name, _LONGEST_NAME), *map(str, counts), *size])
        shared += [f"{chain.name}: {name}" for name in chain.shared]
    alike = bullets("alike, but in no chain", blocks.rejected)
    if not rows:
        return ["No repeated blocks, so depth cannot be changed; width can.", *alike]
    header = ("chain", "blocks", "modules each", "nodes", "tensors", "params each")[: len(rows[0])]
    return [table(header, rows, right=range(1, 6)), *bullets("read by all blocks", shared), *alike]


def block_data(program: Program) -> dict[str, Any]:
    """The same for JSON, with the tensors and nodes of every block."""
    chains = [
        {
            "name": chain.name,
            "blocks": len(chain),
            "period": chain.period,
            "shared": list(chain.shared),
            "tensors": [list(block.tensors) for block in chain],
            "nodes": [list(block.nodes) for block in chain],
        }
        for chain in program.blocks
    ]
    return {"chains": chains, "rejected": list(program.blocks.rejected)}
