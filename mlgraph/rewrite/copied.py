"""Values as they must be once indices of axes have copies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.rewrite.rearrange import Moves, order

if TYPE_CHECKING:
    from mlgraph.program.dims import Dim, Dims, NodeDims


@dataclass(frozen=True)
class Copies:
    """Copies values along the axes that grow."""

    dims: Mapping[str, NodeDims]
    moves: Moves
    _known: dict[Dim, torch.Tensor] = dataclasses.field(default_factory=dict)

    def __call__(self, value: Any, node: fx.Node) -> Any:
        """The value of a node as it must be after growth; None where its dims do not tell."""
        dims = self.dims.get(node.name)
        if isinstance(value, (tuple, list)):
            known = dims is not None and len(dims.results) == len(value)
            parts = dims.results if dims is not None and known else [None] * len(value)
            return [self._one(item, part) for item, part in zip(value, parts, strict=True)]
        return self._one(value, dims.tensor if dims is not None else None)

    def shares(self, value: Any, node: fx.Node) -> torch.Tensor | None:
        """What each element after growth counts, so that all copies of one count as much as it did.

        None where the node's dims do not tell.
        """
        dims = self.dims.get(node.name)
        grown = self(value, node)
        if dims is None or dims.tensor is None or not isinstance(grown, torch.Tensor):
            return None
        share = torch.ones(grown.shape, dtype=torch.float64)
        for position, dim in enumerate(dims.tensor):
            if len(self._known[dim]) != value.shape[position] or (dim and self._moved(dim)):
                places = self._known[dim]
                counted = places.bincount(minlength=value.shape[position])[places].double()
                share = share / counted.view(-1, *(1,) * (share.dim() - position - 1))
        return share

    def _one(self, value: Any, dims: Dims | None) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if dims is None or len(dims) != value.dim():
            return None
        for position, dim in enumerate(dims):
            if dim.size != value.shape[position]:
                return None
            if dim not in self._known:
                self._known[dim] = order(dim, self.moves)
            places = self._known[dim]
            if len(places) != value.shape[position] or (dim and self._moved(dim)):
                value = value.index_select(position, places)
        return value

    def _moved(self, dim: Dim) -> bool:
        return any(leaf.axis in self.moves for leaf in dim.leaves())
