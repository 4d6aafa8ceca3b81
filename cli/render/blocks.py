"""The chains of repeated blocks as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.cli.render.console import bullets, table
from mlgraph.cli.render.numbers import count

if TYPE_CHECKING:
    from mlgraph.program import Program


def block_view(program: Program) -> list[Any]:
    """One line for each chain, then why modules that look alike are in none."""
    rows = []
    for chain in program.blocks:
        first = chain.blocks[0]
        parameters = sum(program.tensors[name].numel() for name in first.tensors)
        rows.append(
            (
                chain.name,
                f"×{len(chain)}",
                str(chain.period),
                f"{len(first.nodes)}",
                f"{len(first.tensors)}",
                count(parameters),
                ", ".join(chain.shared) or "-",
            )
        )
    if not rows:
        return ["No repeated blocks, so depth cannot be changed; width can.", *_rejected(program)]
    header = ("chain", "blocks", "period", "nodes", "tensors", "values", "shared by all")
    return [table(header, rows, right=(1, 2, 3, 4, 5)), *_rejected(program)]


def _rejected(program: Program) -> list[Any]:
    return bullets("alike, but in no chain", program.blocks.rejected)
