"""``mlgraph explain``: what ties or freezes a dim of a parameter."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Freeze, Json, Source


@opens
def command(
    source: Source,
    target: Annotated[
        str, typer.Argument(metavar="PARAM[DIM]", help="A parameter, or one dim of it.", show_default=False)
    ],
    opening: Opening,
    every: Annotated[
        bool, typer.Option("--all", help="Show the way to every parameter that shares an axis.")
    ] = False,
    freeze: Freeze = None,
    json: Json = False,
) -> None:
    """Say which axes a dim is made of, what shares them and through which operations, and what freezes them.

    For example: mlgraph explain bert "encoder.layer.0.attention.self.query.weight[0]"
    """
    import mlgraph.inspect.explain
    from mlgraph.inspect.history import frozen_by_user
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.inspect.text.explanation import explanation

    program = opening.program(source, weights=False)
    found = mlgraph.explain(program, target, freeze=[*frozen_by_user(program), *(freeze or ())])
    if json:
        show_json([asdict(dim) for dim in found])
    else:
        show(*explanation(found, every, console().width))
