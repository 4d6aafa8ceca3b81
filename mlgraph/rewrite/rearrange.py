"""Rearranging tensors along axes: the index that every index of a dim takes its values from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from mlgraph.program.dims import Dim, Join

Moves = Mapping[str, torch.Tensor]
"""Per axis id, the old index that comes to every new index: a permutation, or copies."""


def order(dim: Dim, moves: Moves) -> torch.Tensor:
    """For every new index of a dim, the index of the old dim that comes to its place."""
    indices = torch.zeros(1, dtype=torch.long)
    for term in dim:
        if isinstance(term, Join):
            parts, start = [], 0
            for part in term.parts:
                parts.append(order(part, moves) + start)
                start += part.size
            own = torch.cat(parts)
        else:
            own = moves[term.axis] if term.axis in moves else torch.arange(term.size)
        indices = (indices[:, None] * term.size + own).flatten()
    return indices


def places(dim: Dim, axis: str) -> torch.Tensor | None:
    """The indices of a dim that belong to an axis, those of its first index first; None where none do.

    Every index of the axis has equally many, in the same order.
    """
    own = _index_in(dim, axis)
    if not bool((own >= 0).any()):
        return None
    by_index = own.argsort(stable=True)
    return by_index[int((own < 0).sum()) :]


def _index_in(dim: Dim, axis: str) -> torch.Tensor:
    """For every index of a dim, which index of an axis it has; -1 where it has none."""
    found = torch.full((1,), -1)
    for term in dim:
        if isinstance(term, Join):
            own = torch.cat([_index_in(part, axis) for part in term.parts])
        else:
            own = torch.arange(term.size) if term.axis == axis else torch.full((term.size,), -1)
        found = torch.maximum(found[:, None], own).flatten()
    return found


def rearrange(value: torch.Tensor, dims: Iterable[Dim], moves: Moves) -> torch.Tensor:
    """The value with every dim rearranged as its axes are; a dim that does not have its size stays."""
    for position, dim in enumerate(dims):
        if value.shape[position] > 1 and value.shape[position] == dim.size:
            value = value.index_select(position, order(dim, moves).to(value.device))
    return value
