"""``mlgraph axes``: what may be coarsened and what may not, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlgraph.cli.options import Inputs, Json, Loss, Model, Source, Trust


def command(
    source: Source,
    slots: Annotated[bool, typer.Option("--slots", help="List where each axis occurs.")] = False,
    inputs: Inputs = None,
    model: Model = None,
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """List the axes of a model: size, how often each occurs, and what may be coarsened and why not."""
    from mlgraph.cli.results import open_program
    from mlgraph.inspect.summary import families
    from mlgraph.inspect.text.axes import axis_table, slot_list
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.program.families import judged

    program = open_program(source, trust=trust, loss=loss, inputs=inputs, model=model)
    if json:
        show_json([asdict(axis) for axis in judged(program)])
    elif slots:
        show(*slot_list(program.axes))
    else:
        show(axis_table(families(program), program.axes, console().width))
