"""A block diagram as data: boxes, the edges between them, and the dims that both carry; no positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgraph.program.families import Family

KINDS = (
    "input",
    "output",
    "side",
    "chain",
    "folded",
    "linear",
    "embedding",
    "convolution",
    "experts",
    "attention",
    "norm",
    "activation",
    "router",
    "rotary",
    "add",
    "mul",
    "plumbing",
    "loss",
    "module",
    "op",
)
"""What a box may be; ``add`` and ``mul`` are drawn as circles. ``chain`` stands for repeated blocks and
``folded`` for a module, of which there are diagrams; ``side`` is what a part reads beside its input."""


@dataclass(frozen=True)
class Token:
    """A piece of a dim as written: the name of an axis with the place of its family, or what joins names."""

    text: str
    family: int | None = None


Tokens = tuple[Token, ...]


@dataclass(frozen=True)
class Tensor:
    """A parameter or buffer that a box reads: dims in axis names, sizes, and other names of a tied one.

    ``contracts`` tells, per dim, whether it is summed against an activation.
    """

    name: str
    dims: tuple[Tokens, ...]
    shape: tuple[int, ...]
    dtype: str
    is_parameter: bool = True
    contracts: tuple[bool, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Box:
    """What is drawn as one thing: some nodes of the graph that belong together.

    ``title`` is what is written largest, ``kind`` one of :data:`KINDS`, ``note`` the kind in words. ``path``
    is the qualified name of the module, ``ops`` the ops inside in order, ``sources`` their lines in the
    model's code. ``result`` and ``shape`` are the dims of the (first) result, a size that depends on data by
    its symbol. ``repeat`` counts the blocks of a chain, whose name is ``title``.
    """

    id: str
    kind: str
    title: str
    note: str = ""
    path: str = ""
    tensors: tuple[Tensor, ...] = ()
    ops: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    result: tuple[Tokens, ...] = ()
    shape: tuple[int | str, ...] = ()
    repeat: int = 1

    @property
    def is_circle(self) -> bool:
        return self.kind in ("add", "mul")


@dataclass(frozen=True)
class Edge:
    """A tensor on its way from one box to another.

    ``families`` are those of the axes that it carries, the major ones first. ``through`` are ops folded into
    the edge (views, casts, factors); ``count`` says how many tensors take this way (the thirds of a packed
    projection). A ``residual`` edge bypasses what other edges lead through, into a sum.
    """

    source: str
    target: str
    dims: tuple[Tokens, ...] = ()
    shape: tuple[int | str, ...] = ()
    families: tuple[int, ...] = ()
    through: tuple[str, ...] = ()
    count: int = 1
    residual: bool = False


@dataclass(frozen=True)
class Diagram:
    """Boxes and edges under a title; ``repeat`` is how many like blocks it stands for."""

    name: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    repeat: int = 1

    def box(self, id: str) -> Box:
        """The box of that id."""
        return next(box for box in self.boxes if box.id == id)


@dataclass(frozen=True)
class Branch:
    """A module: its tensors and the modules inside; ``repeat`` blocks of a chain are folded into it."""

    name: str
    path: str
    tensors: tuple[Tensor, ...] = ()
    inner: tuple[Branch, ...] = ()
    repeat: int = 1


@dataclass(frozen=True)
class View:
    """All diagrams of a program: the whole with repeats folded, and its parts by name.

    A part is one block of a chain (``repeat`` says of how many) or a module.

    ``families`` are the axes that the diagrams' tokens point to; ``slots`` lists, per family, the slots that
    lie outside chains or in their first blocks, as (tensor, dim, role). ``modules`` is the tree of modules.
    """

    name: str
    parameters: int
    overview: Diagram
    parts: Mapping[str, Diagram]
    families: tuple[Family, ...]
    slots: tuple[tuple[tuple[str, int, str], ...], ...]
    modules: Branch
    notes: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
