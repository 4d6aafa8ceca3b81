"""The axes of a program as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from mlgraph.cli.render.console import heading, table
from mlgraph.cli.summary import Family

_STYLES = {"coarsenable": "green", "kept": "yellow", "frozen": "red"}


def axis_table(families: Iterable[Family]) -> Table:
    """One line for each kind of axis: name, size, number of axes and slots, fate and reason."""
    rows = [
        (
            family.name,
            f"{family.size:,}",
            f"×{len(family.ids)}" if len(family.ids) > 1 else "",
            f"{family.slots:,}",
            _fate(family),
        )
        for family in families
    ]
    return table(("axis", "size", "", "slots", "coarsening"), rows, right=(1, 2, 3))


def _fate(family: Family) -> Text:
    text = Text(family.fate, style=_STYLES[family.fate])
    return text.append(f": {family.reason}", style="default") if family.reason else text


def slot_list(axes: Iterable[Any]) -> list[Any]:
    """Every axis with the tensor dims in which it occurs and its role there."""
    lines: list[Any] = []
    for axis in axes:
        rows = [(f"  {slot.tensor}[{slot.dim}]", slot.role) for slot in axis.slots]
        lines += [heading(f"{axis.id} ({axis.size})"), table(("  slot", "role"), rows)]
    return lines
