"""What a program is: graph, tensors, signature, lineage, and the tables that are inferred from it."""

from mlgraph.program.notes import Note
from mlgraph.program.origin import HuggingFaceOrigin, ModuleOrigin, Origin, TimmOrigin
from mlgraph.program.program import Input, Lineage, Program, Signature
from mlgraph.program.selection import Selection
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
]
