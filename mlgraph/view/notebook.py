"""Programs, axes and blocks as HTML for notebooks: no scripts, no style sheet, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mlgraph.program.families import alike
from mlgraph.view.colours import colours
from mlgraph.view.fold import view
from mlgraph.view.markup import escaped, tag
from mlgraph.view.svg import fragment

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import AxisTable
    from mlgraph.program.block_table import BlockTable

_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:top"
_NUMBER = "text-align:right;padding:2px 12px 2px 0;vertical-align:top;font-variant-numeric:tabular-nums"


def program_html(program: Program) -> str:
    """A program as its block diagram."""
    shown = view(program)
    heading = f"<b>{escaped(shown.name)}</b> {shown.parameters:,} parameters"
    notes = (
        tag("ul", {}, *(tag("li", {}, escaped(str(note))) for note in program.notes)) if program.notes else ""
    )
    picture = tag("div", {"style": "overflow:auto;background:#fff;max-height:900px"}, fragment({"": shown}))
    return tag("div", {}, tag("p", {}, heading), picture, notes)


def axes_html(table: AxisTable) -> str:
    """The axes of a program: name, size, how many are alike, slots, and what is done with them."""
    families = alike(table)
    rows = []
    for family, (colour, _) in zip(families, colours(families), strict=True):
        name = tag(
            "b",
            {"style": f"border-bottom:3px {_LINES[family.fate]} {colour}"},
            escaped(family.name),
        )
        words = f"{family.fate}: {family.reason}" if family.reason else family.fate
        many = f"×{len(family.ids)}" if len(family.ids) > 1 else ""
        rows.append([name, f"{family.size:,}", many, f"{family.slots:,}", escaped(words)])
    return _table(("axis", "size", "", "slots", "coarsening"), rows, numbers=(1, 2, 3))


def blocks_html(table: BlockTable) -> str:
    """The chains of repeated blocks, and why modules that look alike are in none."""
    rows = []
    for chain in table:
        first = chain.blocks[0]
        counts = [f"×{len(chain)}", str(chain.period), f"{len(first.nodes):,}", f"{len(first.tensors):,}"]
        rows.append([tag("b", {}, escaped(chain.name)), *counts, escaped(", ".join(chain.shared))])
    header = ("chain", "blocks", "period", "nodes", "tensors", "shared by all")
    told = [tag("li", {}, escaped(f"not in a chain: {why}")) for why in table.rejected]
    return _table(header, rows, numbers=(1, 2, 3, 4)) + (tag("ul", {}, *told) if told else "")


_LINES = {"coarsenable": "solid", "kept": "dashed", "frozen": "dotted"}


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int]) -> str:
    """A table of cells that are markup already."""
    styles = dict.fromkeys(numbers, _NUMBER)

    def row(kind: str, cells: Sequence[str]) -> str:
        parts = (tag(kind, {"style": styles.get(place, _CELL)}, cell) for place, cell in enumerate(cells))
        return tag("tr", {}, *parts)

    head = tag("thead", {}, row("th", [escaped(text) for text in header]))
    return tag("table", {}, head, tag("tbody", {}, *(row("td", cells) for cells in rows)))
