"""The chains of repeated blocks as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.inspect.portrait import BlocksPortrait, blocks_portrait
from mlgraph.inspect.text.console import bullets, shortened, table
from mlgraph.inspect.text.numbers import count

if TYPE_CHECKING:
    from mlgraph.program.block_table import BlockTable

_LONGEST_NAME = 32


def chain_view(blocks: BlockTable, _width: int) -> list[Any]:
    """A block table in notebooks and interpreters: without parameters, which it does not know."""
    return block_view(blocks_portrait(blocks))


def block_view(shown: BlocksPortrait) -> list[Any]:
    """One line for each chain, what its blocks share, then why modules that look alike are in none."""
    rows, shared = [], []
    for chain in shown.chains:
        counts = (f"×{len(chain.nodes)}", chain.period, len(chain.nodes[0]), len(chain.tensors[0]))
        size = [] if chain.parameters is None else [count(chain.parameters)]
        rows.append([shortened(chain.name, _LONGEST_NAME), *map(str, counts), *size])
        shared += [f"{chain.name}: {name}" for name in chain.shared]
    alike = bullets("alike, but in no chain", shown.rejected)
    if not rows:
        return ["No repeated blocks, so depth cannot be changed; width can.", *alike]
    header = ("chain", "blocks", "modules each", "nodes", "tensors", "params each")[: len(rows[0])]
    return [table(header, rows, right=range(1, 6)), *bullets("read by all blocks", shared), *alike]


def block_data(shown: BlocksPortrait) -> dict[str, Any]:
    """The same for JSON, with the tensors and nodes of every block."""
    chains = [
        {
            "name": chain.name,
            "blocks": len(chain.nodes),
            "period": chain.period,
            "shared": list(chain.shared),
            "tensors": list(map(list, chain.tensors)),
            "nodes": list(map(list, chain.nodes)),
        }
        for chain in shown.chains
    ]
    return {"chains": chains, "rejected": list(shown.rejected)}
