"""``mlgraph demo``: a V-cycle beside training from scratch, on text that is already here."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.options import Json


def command(
    steps: Annotated[int, typer.Option("--steps", min=20, metavar="N", help="Steps from scratch.")] = 400,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of weights and data.")] = 0,
    json: Json = False,
) -> None:
    """Train a small GPT by a V-cycle and from scratch, and compare what both cost.

    Takes at most three minutes on two CPU cores and downloads nothing: the text is the source of
    Python's standard library.
    """
    from mlgraph.cli.render import demo as render
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.train.demo import demonstrate

    found = demonstrate(
        steps, say=lambda text: None if json else show(f"· {text}"), seed=seed, progress=not json
    )
    if json:
        show_json(render.figures(found))
    else:
        show("", *render.outcome(found))
