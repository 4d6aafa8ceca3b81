"""Every pass by the name it has in a pipeline, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError, suggestion

if TYPE_CHECKING:
    from mlgraph.passes.base import Pass

PASSES: dict[str, str] = {
    "coalesce": "mlgraph.passes.coalesce:Coalesce",
    "decoalesce": "mlgraph.passes.decoalesce:Decoalesce",
    "interpolate": "mlgraph.passes.interpolate:Interpolate",
    "stack": "mlgraph.passes.stack:Stack",
    "net2net": "mlgraph.passes.net2net:Net2Net",
    "fpi": "mlgraph.passes.fpi:Fpi",
    "aki": "mlgraph.passes.aki:Aki",
    "insert": "mlgraph.passes.insert:Insert",
    "lemon": "mlgraph.passes.lemon:Lemon",
}
"""Name in a pipeline to ``module:class``."""


def load_pass(name: str) -> type[Pass]:
    """The class of the pass called ``name``.

    Raises MlgraphError, with the nearest right name, where there is none.
    """
    if name not in PASSES:
        raise MlgraphError(f"There is no pass {name!r}; {suggestion(name, sorted(PASSES))}")
    module, _, attribute = PASSES[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module), attribute)
    return found
