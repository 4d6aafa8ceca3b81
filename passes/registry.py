"""Every pass by the name it has in a pipeline, imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError

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
        raise MlgraphError(f"There is no pass {name!r}{suggestion(name, PASSES)}.")
    module, _, attribute = PASSES[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(module), attribute)
    return found


def suggestion(wrong: str, right: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` or the list of names in ``right``, to end a sentence with."""
    names = sorted(right)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}" if close else f"; use one of {', '.join(names)}"
