"""Repeated blocks are coarsened alike: an axis that one block keeps is kept in all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlgraph.program.axis_table import Axis, Reason
from mlgraph.program.dims import DimExpr, leaves


def keep_alike(
    axes: Sequence[Axis],
    tensor_dims: Mapping[str, tuple[DimExpr, ...]],
    columns: Iterable[Sequence[str]],
) -> list[Axis]:
    """The axes, with those kept whose counterpart in another block of a chain is frozen or kept.

    ``columns`` list, per position in the blocks of a chain, its tensor in each block. Blocks that were
    coarsened each in its own way would be no chain any more.
    """
    known = {axis.id: axis for axis in axes}
    counterparts = [ids for column in columns for ids in _counterparts(column, tensor_dims)]
    settled = False
    while not settled:
        settled = True
        for ids in counterparts:
            found = [known[name] for name in ids if name in known]
            stays = next((axis for axis in found if not axis.coarsenable_by_default), None)
            if stays is None:
                continue
            for axis in found:
                if axis.coarsenable_by_default:
                    text = f"its counterpart {stays.id} in another block cannot be coarsened with it"
                    known[axis.id] = dataclasses.replace(axis, kept=Reason("alike", text, stays.where))
                    settled = False
    return [known[axis.id] for axis in axes]


def _counterparts(
    column: Sequence[str], tensor_dims: Mapping[str, tuple[DimExpr, ...]]
) -> Iterator[tuple[str, ...]]:
    """The axes, more than one, at one place in the dims of a column's tensors."""
    dims = [tensor_dims[name] for name in column if name in tensor_dims]
    for same_dim in zip(*dims, strict=False):
        for place in zip(*map(leaves, same_dim), strict=False):
            ids = tuple(dict.fromkeys(leaf.axis for leaf in place))
            if len(ids) > 1:
                yield ids
