"""``mlgraph axes``: what may be coarsened and what may not, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source


@opens
def command(
    source: Source,
    opening: Opening,
    slots: Annotated[bool, typer.Option("--slots", help="List where each axis occurs.")] = False,
    json: Json = False,
) -> None:
    """List the axes of a model: size, how often each occurs, and what may be coarsened and why not."""
    from mlgraph.inspect.text.axes import axis_table, slot_list
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.program.families import alike

    axes = opening.portrait(source).axes
    if json:
        show_json([asdict(axis) for axis in axes])
    elif slots:
        show(*slot_list(axes))
    else:
        show(axis_table(alike(axes), axes, console().width))
