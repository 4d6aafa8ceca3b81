"""Whether the library that a program came from has a configuration for it."""

from __future__ import annotations

from mlgraph.interop.fitting.fit import NotExpressible
from mlgraph.program import HuggingFaceOrigin, Program, TimmOrigin


def refusal(program: Program) -> str | None:
    """Why no configuration builds a program; None where one does, or where it came from no library."""
    try:
        if isinstance(program.origin, HuggingFaceOrigin):
            from mlgraph.interop.huggingface import express

            express(program)
        elif isinstance(program.origin, TimmOrigin):
            from mlgraph.interop.timm import express as express_timm

            express_timm(program)
    except NotExpressible as error:
        return str(error)
    return None
