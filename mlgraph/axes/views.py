"""Tensors of the program seen through the ops that only rearrange, scale or join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from mlgraph.axes import factors
from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait


@dataclass(frozen=True)
class TensorView:
    """A value that is one tensor of the program, rearranged or scaled; ``gathered`` if looked up by index."""

    tensor: str
    dims: Any
    gathered: bool = False


@dataclass(frozen=True)
class Joined:
    """A value that is several tensors of the program, listed one after the other along ``position``."""

    parts: tuple[TensorView, ...]
    position: int


@dataclass(kw_only=True)
class Views:
    """Which values are views of tensors, and the roles that ops give to a tensor's dims through its views.

    A view's dims are private to its tensor, apart from the dims that inference unifies, so that two
    tensors on one axis keep their own roles.
    """

    views: dict[fx.Node, TensorView] = field(default_factory=dict)
    joins: dict[fx.Node, Joined] = field(default_factory=dict)

    def value(self, argument: Any) -> Any:
        """The example value of an argument."""
        return argument.meta.get("val") if isinstance(argument, fx.Node) else argument

    def emit(self, argument: Any, dims: Sequence[int] | None = None) -> None:
        if not isinstance(argument, fx.Node):
            return
        joined = self.joins.get(argument)
        for view in joined.parts if joined else (self.views.get(argument),):
            if view is not None and isinstance(view.dims, list):
                chosen = range(len(view.dims)) if dims is None else dims
                for index in chosen:
                    factors.add_role(view.dims[index], "emits")

    def join(self, node: fx.Node, operands: Sequence[Any], position: int) -> None:
        sizes = {operand: self.value(operand).shape for operand in operands}
        held = [a for a in operands if not any(isinstance(size, int) and size == 0 for size in sizes[a])]
        views = [self.views.get(operand) for operand in held]
        known = [view for view in views if view is not None and isinstance(view.dims, list)]
        if len(known) < len(held) or not known:
            for operand in operands:
                self.emit(operand)
        elif len(known) == 1:
            self.views[node] = known[0]
        else:
            self.joins[node] = Joined(tuple(known), position)

    def stand_for(self, node: fx.Node, source: Any) -> None:
        if source in self.views:
            self.views[node] = self.views[source]

    def follow(self, node: fx.Node, structure: Any) -> None:
        """Apply a rearrangement to the private dims of a parameter, so that its roles stay its own."""
        source = node.args[0]
        if source in self.joins:
            self._follow_joined(node, structure, self.joins[source])  # type: ignore[index]
            return
        view = self.views.get(source) if isinstance(source, fx.Node) else None
        if view is None:
            return
        looked_up = any(
            isinstance(self.value(a), torch.Tensor) for a in node.all_input_nodes if a is not source
        )
        own = structure(self, node, list(view.dims))
        if own is not None:
            self.views[node] = TensorView(view.tensor, own, view.gathered or looked_up)

    def _follow_joined(self, node: fx.Node, structure: Any, joined: Joined) -> None:
        """The same of tensors joined to one, through ops that only reorder dims."""
        if not has(node, Trait.REORDERS | Trait.IDENTITY | Trait.CASTS):
            self.emit(node.args[0])
            return
        marks = [factors.fresh(2) for _ in joined.parts[0].dims]
        position = structure(self, node, list(marks)).index(marks[joined.position])
        parts = [TensorView(p.tensor, structure(self, node, list(p.dims)), p.gathered) for p in joined.parts]
        self.joins[node] = Joined(tuple(parts), position)
