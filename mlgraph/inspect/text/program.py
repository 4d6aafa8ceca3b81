"""A program in a few lines."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlgraph.inspect.modules import modules
from mlgraph.inspect.summary import Summary, summarize
from mlgraph.inspect.text.comparison import notes, outcome, plural_count
from mlgraph.inspect.text.modules import TreeView, axis_sizes, tree_data, tree_lines
from mlgraph.inspect.text.numbers import count, size

if TYPE_CHECKING:
    from mlgraph.program import Input, Program


def inspection(
    program: Program, width: int = 80, depth: int | None = None, every_tensor: bool = False
) -> list[Any]:
    """The modules of a program with repeats folded, then what it is as a whole."""
    from mlgraph.graph.flops import flops_at

    counted = flops_at(program)
    root = modules(program)
    view = TreeView(depth, every_tensor, max(counted.tokens, counted.samples, 1))
    figures = summarize(program)
    told = facts(program, figures, axis_sizes(root), counted.forward / view.per)
    return [*tree_lines(root, view, width), "", told, *notes(program.notes)]


def program_view(program: Program, width: int) -> list[Any]:
    """A program in notebooks and interpreters: what ``mlgraph inspect`` shows."""
    return inspection(program, width)


def inspection_data(program: Program) -> dict[str, Any]:
    """The same for JSON."""
    told = {"modules": tree_data(modules(program)), "notes": list(map(str, program.notes))}
    return {**asdict(summarize(program)), **told}


def captured(program: Program, figures: Summary, path: str) -> list[Any]:
    """What was captured, with its inputs, and where it went."""
    closing = outcome(path, "program", figures.parameters)
    return [facts(program, figures), *notes(program.notes), "", closing]


def facts(program: Program, figures: Summary, axes: str = "", forward: float = 0.0) -> Table:
    """Name, size, cost, axes, blocks and inputs of a program, one line each."""
    inputs = [(leaf.name, describe(leaf)) for leaf in program.signature.inputs if leaf.is_tensor]
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
        *((f"input {name}", text) for name, text in inputs),
    ):
        grid.add_row(name, text)
    return grid


def describe(leaf: Input) -> str:
    """An input's type and sizes, dynamic ones by name: ``int64[batch, sequence]``."""
    symbols = leaf.symbols or (None,) * len(leaf.shape)
    sizes = [symbol or str(number) for symbol, number in zip(symbols, leaf.shape, strict=True)]
    return f"{str(leaf.dtype).removeprefix('torch.')}[{', '.join(sizes)}]"
