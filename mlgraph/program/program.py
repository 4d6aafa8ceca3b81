"""A captured model: one graph, its tensors under their original names, and where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mlgraph.errors import MlgraphError
from mlgraph.program.display import Shown
from mlgraph.program.late import late

if TYPE_CHECKING:
    import torch
    from torch import fx
    from torch.utils import _pytree as pytree

    from mlgraph.program.axis_table import AxisTable
    from mlgraph.program.block_table import BlockTable
    from mlgraph.program.notes import Note
    from mlgraph.program.origin import Origin
    from mlgraph.program.selection import Selection
    from mlgraph.program.size_guards import Formula
    from mlgraph.program.soundness import Soundness
    from mlgraph.program.tensors import Tensors

_ANALYSES = ("axes", "blocks", "sound", "_trials", "_depth_trials")


@dataclass(frozen=True)
class Input:
    """One leaf of the flattened ``(args, kwargs)`` of a program, in placeholder order.

    ``shape`` holds the example sizes on which the graph was propagated; ``symbols`` gives, dim by
    dim, the name of a dynamic size (dims of one name always have equal sizes) or ``None`` where the
    size is fixed. A leaf that is no tensor has ``dtype`` ``None`` and keeps its ``value``.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    symbols: tuple[str | None, ...] = ()
    value: Any = None

    @property
    def is_tensor(self) -> bool:
        return self.dtype is not None


@dataclass(frozen=True)
class Signature:
    """How a program is called: input leaves, and the pytrees of its arguments and result.

    ``parameters`` names all that the original's forward takes, in its order, captured or not; empty where
    that is not known. ``ranges`` are torch.export's bounds of the dynamic sizes; ``guards`` are the
    conditions on them under which the graph is what the model does, checked on every call of an emitted
    module.
    """

    inputs: tuple[Input, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    guards: tuple[Formula, ...] = ()


@dataclass(frozen=True, eq=False)
class Lineage:
    """Which program this one came from, by which pass and transfers.

    ``parent`` is a skeleton (its tensors are on the meta device). ``groupings`` gives, per axis
    id of the parent, the coarse index of every fine index; ``layers``, per chain name, the coarse
    block of every block. ``operation`` is the pass as a pipeline string. Where ``direction`` is ``"up"`` the
    parent is the coarse one: groupings and layers then give the parent's index of every index here.
    ``selections`` and ``layer_selections`` say of those of them that did not go by means and copies how they
    went.
    """

    operation: str
    parent: Program
    groupings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    direction: Literal["down", "up"] = "down"
    selections: Mapping[str, Selection] = field(default_factory=dict)
    layer_selections: Mapping[str, Selection] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Program(Shown):
    """A captured model.

    ``graph`` has four kinds of nodes: one placeholder per input leaf, one get_attr per tensor it reads (the
    target is the canonical name), call_function nodes, and the output, whose single argument is the flat
    tuple of result leaves. Nodes carry ``meta["val"]`` (fake tensors of the example sizes),
    ``meta["module"]`` (qualified name of the module that ran the op, ``""`` for the root) and
    ``meta["source"]`` (``"file:line: text"`` in the model's own code). Graph and tensors are never changed
    in place: every operator returns a new program.

    Nodes that follow the training mode are written as in training: ``aten.dropout(x, p, True)``,
    ``mlgraph.ops.drop_path(x, p, dims, True)``, attention with ``dropout_p`` > 0, and ``aten.batch_norm``
    whose training flag is True and that has running statistics.

    ``origin`` tells which library the model belongs to, where that is known; ``history`` lists the passes
    that made the program of the model's, as pipeline strings. A program of a part of a model has the part's
    path in it as ``submodule``.
    """

    graph: fx.Graph
    tensors: Tensors
    signature: Signature
    name: str = "model"
    lineage: Lineage | None = None
    notes: tuple[Note, ...] = ()
    origin: Origin | None = None
    history: tuple[str, ...] = ()
    submodule: str | None = None

    @cached_property
    def axes(self) -> AxisTable:
        """The inferred axes (design: axis inference); prints as a table."""
        table: AxisTable = late("Program", "axes")(self.for_analysis())
        return table

    @cached_property
    def blocks(self) -> BlockTable:
        """The chains of repeated blocks; prints as a table."""
        table: BlockTable = late("Program", "blocks")(self.for_analysis())
        return table

    def __repr__(self) -> str:
        """One line; the graph itself is in :attr:`graph`."""
        calls = sum(node.op == "call_function" for node in self.graph.nodes)
        past = " → ".join(self.history)
        described = f"{self.name}: {self.num_parameters():,} parameters, {calls} ops"
        return f"<Program {described}{f', by {past}' if past else ''}>"

    def replace(self, **changes: Any) -> Program:
        """A program with some fields changed; analyses are made anew."""
        return dataclasses.replace(self, **changes)

    def skeleton(self) -> Program:
        """This program with its tensors on the meta device, at no memory."""
        return self.with_values(self.tensors.skeleton())

    def with_values(
        self,
        tensors: Tensors,
        graph: fx.Graph | None = None,
        signature: Signature | None = None,
    ) -> Program:
        """This program with tensors of other values, of the same names and shapes: analyses are kept.

        Where dtypes change, so do ``graph`` and ``signature``; nodes keep their names.
        """
        changes = {"graph": graph or self.graph, "signature": signature or self.signature}
        alike = self.replace(tensors=tensors, **changes)
        for analysis in _ANALYSES:
            if analysis in self.__dict__:
                alike.__dict__[analysis] = self.__dict__[analysis]
        return alike

    def without_weights(self) -> Program:
        """This program with what a state dict holds on the meta device, and its constants as they are."""
        meta = self.tensors.meta()
        kept = {name: meta[name] if name in self.tensors.persistent else self.tensors[name] for name in meta}
        return self.with_values(self.tensors.replace(kept))

    @cached_property
    def sound(self) -> Soundness:
        """What a trial of the axes that are coarsened by default shows, on a miniature of this program."""
        found: Soundness = late("Program", "sound")(self)
        return found

    def for_analysis(self) -> Program:
        """This program for what looks at shapes and constants alone: lazy weights are on the meta device."""
        return self if self.tensors.in_memory else self.without_weights()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Persistent tensors by every one of their original names."""
        names = [*self.tensors, *self.tensors.aliases]
        return {name: self.tensors[name] for name in names if name in self.tensors.persistent}

    def num_parameters(self) -> int:
        """Number of scalars in distinct parameters."""
        meta = self.tensors.meta()
        return sum(meta[name].numel() for name in self.tensors.parameters)


def require_program(*given: object) -> None:
    """Raise MlgraphError at what is no program."""
    for value in given:
        if isinstance(value, Program):
            continue
        kind = type(value).__name__
        has_one = isinstance(getattr(value, "program", None), Program)
        instead = "take its .program" if has_one else "capture it first: mlgraph.capture(model, args)"
        raise MlgraphError(f"what is given is a {kind} and no program; {instead}.")
