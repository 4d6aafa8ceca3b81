"""``mlgraph passes``: what pipelines are made of."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.options import Json


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PASS]…", help="These passes only.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the passes, what each does and by which paper, and their options.

    They are put together by mlgraph apply, and are phases of a run in mlgraph train. For example:
    mlgraph passes lemon
    """
    from mlgraph.cli.render.passes import listed, listed_json
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.passes.registry import PASSES, load_pass

    chosen = {name: load_pass(name) for name in names or PASSES}
    show_json(listed_json(chosen)) if json else show(*listed(chosen))
