"""The axes of a program as tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.inspect.text.console import heading, shortened, table
from mlgraph.program.families import Family, alike

if TYPE_CHECKING:
    from rich.table import Table

    from mlgraph.program.axis_table import AxisTable

_STYLES = {"coarsenable": "green", "kept": "yellow", "frozen": "red"}
_WIDE = 110
_LONGEST_NAME = 44


def axis_table(families: Iterable[Family], axes: Iterable[Any], width: int = 80) -> Table:
    """One line for each kind of axis: name, size, where it comes from, slots, fate and reason.

    Where it comes from is the first parameter dim that has it, the numbers of blocks written ``*``. Below 110
    columns that stands above the fate.
    """
    known = {axis.id: axis for axis in axes}
    rows: list[tuple[Any, ...]] = []
    for family in families:
        origin = Text(shortened(first_slot(known[family.ids[0]]), _LONGEST_NAME))
        number = f"×{len(family.ids)}" if len(family.ids) > 1 else ""
        head = (family.name, f"{family.size:,}", number, f"{family.slots:,}")
        if width >= _WIDE:
            rows.append((*head, origin, fate(family.fate, family.reason)))
        else:
            rows.append((*head, Text("\n").join([origin, fate(family.fate, family.reason)])))
    origins = ("comes from", "coarsening") if width >= _WIDE else ("comes from, coarsening",)
    return table(("axis", "size", "", "slots", *origins), rows, right=(1, 2, 3))


def table_view(table: AxisTable, width: int) -> list[Any]:
    """An axis table in notebooks and interpreters."""
    return [axis_table(alike(table), table, width)]


def first_slot(axis: Any) -> str:
    """``layers.*.mlp.up.weight[0]``: the first tensor dim on an axis, numbers of modules written ``*``."""
    if not axis.slots:
        return "-"
    return any_block(f"{axis.slots[0].tensor}[{axis.slots[0].dim}]")


def any_block(path: str) -> str:
    """A path with the numbers of modules written ``*``."""
    return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", path)


def fate(what: str, reason: str) -> Text:
    """``kept: the reason``, coloured."""
    text = Text(what, style=_STYLES[what])
    return text.append(f": {reason}", style="default") if reason else text


def slot_list(axes: Iterable[Any]) -> list[Any]:
    """Every axis with the tensor dims in which it occurs and its role there."""
    lines: list[Any] = []
    for axis in axes:
        rows = [(f"  {slot.tensor}[{slot.dim}]", slot.role) for slot in axis.slots]
        lines += [heading(f"{axis.id} ({axis.size})"), table(("  slot", "role"), rows)]
    return lines
