"""``mlgraph browse``: a model full-screen."""

from __future__ import annotations

import importlib.util
import sys

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Source


@opens
def command(source: Source, opening: Opening) -> None:
    """Explore a model full-screen: its tree, its axes and where each occurs, and what coarsening would do.

    Keys are listed at the bottom; ? explains them. Nothing is written.
    """
    from mlgraph.errors import MlgraphError

    if importlib.util.find_spec("textual") is None:
        raise MlgraphError("mlgraph browse needs textual: install it with pip install 'mlgraph[browse]'.")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise MlgraphError("mlgraph browse needs a terminal: use mlgraph inspect where output is piped.")
    program = opening.program(source, weights=False)

    from mlgraph.cli.browser.app import Browser
    from mlgraph.cli.browser.explorer import Explorer

    Browser(Explorer(program), source).run()
