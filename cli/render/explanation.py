"""What ties a dim, as text."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mlgraph.cli.render.console import heading
from mlgraph.cli.render.numbers import plural

if TYPE_CHECKING:
    from mlgraph.explain import AxisExplanation, DimExplanation, Step, Tie

_FEW = 2
_ROLES = {"both": "emits and contracts", "emits": "emits", "contracts": "contracts"}


def explanation(dims: Iterable[DimExplanation], every: bool) -> list[Any]:
    """Each dim's axes with their fate and their slots, and the way to the nearest or to ``every`` one."""
    lines: list[Any] = []
    for dim in dims:
        lines += [heading(f"{dim.tensor}[{dim.dim}] = {dim.text} ({dim.size})"), ""]
        if not dim.axes:
            lines += ["  on no axis", ""]
        for axis in dim.axes:
            lines += [*_axis(axis, every), ""]
    return lines[:-1]


def _axis(found: AxisExplanation, every: bool) -> Iterator[Any]:
    axis = found.axis
    fate = f"frozen: {axis.frozen}" if axis.frozen else f"kept: {axis.kept}" if axis.kept else "coarsenable"
    yield Text("  ").append(f"{axis.id}", style="bold").append(f" ({axis.size}) {fate}")
    if found.cause is not None:
        yield f"    because of {_node(found.cause)}"
    yield from _occurrences(found)
    shown = found.ties if every else found.ties[:_FEW]
    for tie in shown:
        yield f"    tied to {tie.slot.tensor}[{tie.slot.dim}], which {_ROLES[tie.slot.role]} on it, by"
        yield _way(tie)
    if len(shown) < len(found.ties):
        yield f"    and to {plural(len(found.ties) - len(shown), 'more slot')}; --all shows the way to each"


def _occurrences(found: AxisExplanation) -> Iterator[str]:
    """The slots of an axis, the blocks' numbers folded, by role."""
    folded: dict[str, dict[str, int]] = defaultdict(dict)
    for slot in found.axis.slots:
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", f"{slot.tensor}[{slot.dim}]")
        folded[slot.role][name] = folded[slot.role].get(name, 0) + 1
    for role, names in folded.items():
        number = sum(names.values())
        yield f"    {_ROLES[role]} in {plural(number, 'slot')} of {plural(len(names), 'kind')}"


def _way(tie: Tie) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=5)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    for step in tie.steps:
        grid.add_row("", _node(step))
    return grid


def _node(step: Step) -> str:
    return f"{step.op} ({step.node})" + (f"  {short_source(step.source)}" if step.source else "")


def short_source(source: str) -> str:
    """``file.py:12: text`` without the folders of the file."""
    path, colon, rest = source.partition(":")
    return f"{PurePath(path).name}{colon}{rest}"
