"""A program in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlgraph.cli.render.comparison import notes, outcome, plural_count
from mlgraph.cli.render.numbers import count, size
from mlgraph.cli.summary import Summary

if TYPE_CHECKING:
    from mlgraph.program import Input, Program


def captured(program: Program, figures: Summary, path: str) -> list[Any]:
    """What was captured, with its inputs, and where it went."""
    closing = outcome(path, "program", figures.parameters)
    return [facts(program, figures), *notes(program.notes), "", closing]


def facts(program: Program, figures: Summary) -> Table:
    """Name, size, cost, blocks and inputs of a program, one line each."""
    inputs = [(leaf.name, describe(leaf)) for leaf in program.signature.inputs if leaf.is_tensor]
    blocks = ", ".join(f"{name} ×{number}" for name, number in figures.blocks.items()) or "none repeated"
    held = f"{plural_count(figures.parameters)}, {size(figures.bytes)} ({'+'.join(figures.dtypes)})"
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in (
        ("model", figures.name),
        ("holds", held),
        ("training", f"{count(figures.flops)} FLOPs per {figures.unit}"),
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
