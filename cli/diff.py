"""``mlgraph diff``: two models side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json


@opens
def command(
    first: Annotated[str, typer.Argument(metavar="A", help="A model.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    opening: Opening,
    every: Annotated[bool, typer.Option("--all", help="Show every tensor, equal ones too.")] = False,
    json: Json = False,
) -> None:
    """Compare two models: figures, axes, shapes, weights and graphs, and how each came about."""
    from mlgraph.inspect.differences import diff
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.inspect.text.differences import side_by_side

    before, after = opening.pair(first, second)
    found = diff(before, after)
    if json:
        show_json({"same": found.same, **asdict(found)})
        return
    show(*side_by_side(found, console().width, every))
