"""A captured program in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.cli.render.comparison import notes, plural_count
from mlgraph.cli.render.console import table
from mlgraph.cli.render.numbers import count, size
from mlgraph.cli.summary import Summary

if TYPE_CHECKING:
    from mlgraph.program import Input, Program


def captured(program: Program, figures: Summary, path: str) -> list[Any]:
    """What was captured, with its inputs, and where it went."""
    rows = [(leaf.name, describe(leaf)) for leaf in program.signature.inputs if leaf.is_tensor]
    blocks = ", ".join(f"{name} ×{number}" for name, number in figures.blocks.items()) or "none repeated"
    facts = [
        ("model", figures.name),
        ("parameters", f"{count(figures.parameters)} in {'+'.join(figures.dtypes)}, {size(figures.bytes)}"),
        (f"training FLOPs per {figures.unit}", count(figures.flops)),
        ("blocks", blocks),
        *((f"input {name}", text) for name, text in rows),
    ]
    return [
        table(("", ""), facts),
        *notes(program.notes),
        "",
        f"wrote {path} ({plural_count(figures.parameters)})",
    ]


def describe(leaf: Input) -> str:
    """An input's type and sizes, dynamic ones by name: ``int64[batch, sequence]``."""
    symbols = leaf.symbols or (None,) * len(leaf.shape)
    sizes = [symbol or str(number) for symbol, number in zip(symbols, leaf.shape, strict=True)]
    return f"{str(leaf.dtype).removeprefix('torch.')}[{', '.join(sizes)}]"
