"""What a program is: graph, tensors, signature, lineage, and the tables that are inferred from it."""

from typing import TYPE_CHECKING, Any

from mlgraph.program.notes import Note
from mlgraph.program.origin import HuggingFaceOrigin, ModuleOrigin, Origin, TimmOrigin
from mlgraph.program.program import Input, Lineage, Program, Signature, require_program
from mlgraph.program.selection import Selection

if TYPE_CHECKING:
    from mlgraph.program.tensors import Tensors

__all__ = [
    "HuggingFaceOrigin",
    "Input",
    "Lineage",
    "ModuleOrigin",
    "Note",
    "Origin",
    "Program",
    "Selection",
    "Signature",
    "Tensors",
    "TimmOrigin",
    "require_program",
]


def __getattr__(name: str) -> Any:
    # torch is imported with the tensors alone: tables and notes are read without
    if name != "Tensors":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlgraph.program.tensors import Tensors

    return Tensors
