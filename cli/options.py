"""Arguments and options that several verbs share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlgraph.errors import AxisError

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The model.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="OUT", help="Where to write; by default beside the source's name."),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="DTYPE", help="Write weights as bfloat16, say.", show_default=False),
]
ShardSize = Annotated[
    str, typer.Option("--shard-size", metavar="SIZE", help="Largest file of a Hugging Face result.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Load files that run code on loading.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Loss = Annotated[
    bool, typer.Option("--loss/--no-loss", help="Capture a Hugging Face head with its labels and loss.")
]
Module = Annotated[
    str | None,
    typer.Option(
        "--module",
        metavar="PATH",
        help="Take this submodule, on what the model gives it, instead of the whole model.",
        show_default=False,
    ),
]
Tied = Annotated[
    str, typer.Option("--tied", metavar="exact|paper", help="How parameters used in both roles are treated.")
]
Axes = Annotated[
    list[str] | None,
    typer.Option(
        "--axis",
        metavar="NAME=N",
        help="Factor of one axis, or NAME=0,0,1,… for a grouping; repeatable.",
        show_default=False,
    ),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option("--freeze", metavar="NAME", help="Leave an axis as it is; repeatable.", show_default=False),
]


def parse_axes(given: list[str] | None) -> dict[str, int | tuple[int, ...]]:
    """``["hidden=2", "mlp=0,0,1"]`` as a table; raises AxisError at what is neither."""
    axes: dict[str, int | tuple[int, ...]] = {}
    for text in given or ():
        name, equals, value = text.rpartition("=")
        numbers = value.strip("[] ").split(",")
        if not equals or not name or not all(number.strip().isdecimal() for number in numbers):
            raise AxisError(
                f"--axis {text} is not NAME=N; write for example --axis mlp=2 or --axis mlp=0,0,1,1."
            )
        if name in axes:
            raise AxisError(f"Axis {name!r} is given twice; give it one factor.")
        grouping = tuple(int(number) for number in numbers)
        axes[name] = grouping if len(grouping) > 1 else grouping[0]
    return axes


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: those that are neither None nor empty."""
    return {name: value for name, value in options.items() if value not in (None, (), {})}
