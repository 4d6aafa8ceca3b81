"""Arguments and options that several verbs share, each defined once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mlgraph.cli.pass_options import option_of
from mlgraph.passes.coalesce import Coalesce


def _floating(name: str | None) -> str | None:
    """Refuse what is no name of a floating-point dtype before anything is loaded."""
    if name is not None and not re.fullmatch(r"b?float\d\w*|double|half|float", name):
        raise typer.BadParameter(
            f"{name} is no floating-point dtype; use float32, bfloat16, float16 or float64."
        )
    return name


def _inputs(texts: list[str] | None) -> list[str] | None:
    """Refuse what is no description of an input before anything is loaded."""
    for text in texts or ():
        if not re.fullmatch(r"(\w+=)?\w+\[[\d,\s]*\](<\d+)?", text.strip()):
            raise typer.BadParameter(f"{text} is not [NAME=]DTYPE[SIZES]; write for example ids=int64[3,7].")
    return texts


Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The model.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="OUT", help="Where to write; by default beside the source's name."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Write weights as bfloat16, say.",
        show_default=False,
        callback=_floating,
    ),
]
ShardSize = Annotated[
    str, typer.Option("--shard-size", metavar="SIZE", help="Largest file of a Hugging Face result.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Load files that run code on loading.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WithLoss = Annotated[
    bool, typer.Option("--loss/--no-loss", help="Capture a Hugging Face head with its labels and loss.")
]
Cache = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Use what is remembered of this model, and remember it."),
]
ModuleName = Annotated[
    str | None,
    typer.Option(
        "--module",
        metavar="PATH",
        help="Take this submodule, on what the model gives it, instead of the whole model.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="[NAME=]DTYPE[SIZES]",
        help="An example input, as ids=int64[3,7]; repeatable. Needed for a pickled module.",
        callback=_inputs,
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Of a state dict, or to verify against: a config.json, timm:NAME,key=value, or "
        "FILE.py:CLASS(ARGUMENTS).",
        show_default=False,
    ),
]
AsClass = Annotated[
    bool,
    typer.Option("--as-class", help="Let the class written have constants of its own; say how far it moves."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and write nothing.")]
Freeze = Annotated[list[str] | None, option_of(Coalesce, "freeze")]
