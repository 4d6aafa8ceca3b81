"""A program in a few lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mlgraph.inspect.portrait import Portrait, inputs, portrait
from mlgraph.inspect.text.comparison import notes, outcome, plural_count
from mlgraph.inspect.text.modules import TreeView, axis_sizes, tree_data, tree_lines
from mlgraph.inspect.text.numbers import count, size

if TYPE_CHECKING:
    from mlgraph.inspect.summary import Summary
    from mlgraph.program import Program


def inspection(
    shown: Portrait, width: int = 80, depth: int | None = None, every_tensor: bool = False
) -> list[Any]:
    """The modules of a program with repeats folded, then what it is as a whole."""
    view = TreeView(depth, every_tensor, shown.per)
    told = facts(shown.figures, shown.inputs, axis_sizes(shown.tree), shown.forward / shown.per)
    return [*tree_lines(shown.tree, view, width), "", told, *notes(shown.notes)]


def program_view(program: Program, width: int) -> list[Any]:
    """A program in notebooks and interpreters: what ``mlgraph inspect`` shows."""
    return inspection(portrait(program), width)


def inspection_data(shown: Portrait) -> dict[str, Any]:
    """The same for JSON."""
    return {**asdict(shown.figures), "modules": tree_data(shown.tree), "notes": list(shown.notes)}


def captured(program: Program, figures: Summary, path: str) -> list[Any]:
    """What was captured, with its inputs, and where it went."""
    closing = outcome(path, "program", figures.parameters)
    return [facts(figures, inputs(program)), *notes(program.notes), "", closing]


def facts(figures: Summary, taken: Iterable[tuple[str, str]], axes: str = "", forward: float = 0.0) -> Table:
    """Name, size, cost, axes, blocks and inputs of a program, one line each."""
    blocks = ", ".join(f"{name} ×{number}" for name, number in figures.blocks.items()) or "none repeated"
    held = f"{plural_count(figures.parameters)}, {size(figures.bytes)} ({'+'.join(figures.dtypes)})"
    passes = f"{count(figures.flops)} in training"
    if forward:
        passes = f"{count(forward)} forward, {passes}"
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in (
        ("model", figures.name),
        ("holds", held),
        ("FLOPs", f"{passes} per {figures.unit}"),
        *((("axes", axes),) if axes else ()),
        ("blocks", blocks),
        *((f"input {name}", text) for name, text in taken),
    ):
        # a console that reads markup would take sizes in brackets for it
        grid.add_row(Text(name), Text(text))
    return grid
