"""Coarsening a tensor that is too large to hold, a few rows at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from mlgraph.program.dims import Dim, Leaf
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.transfer import TensorTransfer

if TYPE_CHECKING:
    from mlgraph.program.tensors import TensorSource

LIMIT = 4 << 20
"""Bytes of a tensor that are read at once, in the dtype of its file: what stays in a processor's cache."""


def down_chunks(
    source: TensorSource, name: str, transfer: TensorTransfer | None, limit: int = LIMIT
) -> Iterator[torch.Tensor] | None:
    """The coarse tensor as row chunks, or None where it must be made whole.

    Chunks can be made where ``source`` reads rows and the first dim stays as it is or is led by an axis whose
    groups are neighbours, all else in it staying. Tensors with equal shapes and transfers give chunks of
    equal sizes.
    """
    if not source.reads_rows or name not in source or name in source.absent:
        return None
    shape, dtype = source.shapes[name]
    if len(shape) < 2 or shape[0] < 2:
        return None
    group = _group(transfer)
    if group is None:
        return None
    row = max(1, torch.Size(shape[1:]).numel() * dtype.itemsize)
    step = max(limit // row // group, 1) * group
    return _chunks(source, name, transfer, shape[0], step, group)


def _group(transfer: TensorTransfer | None) -> int | None:
    """How many rows, one after another, make the coarse rows of one group."""
    if transfer is None or not transfer.dims:
        return 1
    lead, rest = transfer.dims[0].terms[:1], Dim(transfer.dims[0].terms[1:])

    def untouched(dim: Dim) -> bool:
        return not dataclasses.replace(transfer, dims=(dim,), roles=transfer.roles[:1]).changes

    if untouched(transfer.dims[0]):
        return 1
    if not isinstance(lead[0], Leaf) or not untouched(rest):
        return None
    grouping = transfer.groupings[lead[0].axis]
    factor = grouping.uniform
    neighbours = Grouping.adjacent(grouping.fine, factor) if factor else None
    if factor is None or neighbours is None or grouping.coarse_of != neighbours.coarse_of:
        return None
    if grouping.shares is not None and grouping.shares != grouping.shares[:factor] * grouping.coarse:
        return None
    return neighbours.group_sizes[0] * rest.size


def _chunks(
    source: TensorSource, name: str, transfer: TensorTransfer | None, count: int, step: int, group: int
) -> Iterator[torch.Tensor]:
    for start in range(0, count, step):
        stop = min(start + step, count)
        part = source.rows(name, start, stop)
        if transfer is not None and transfer.changes:
            part = _part(transfer, stop - start, group).down(part)
        yield part


def _part(transfer: TensorTransfer, rows: int, group: int) -> TensorTransfer:
    """The transfer of some rows; their axis gets a name of its own, as it may be whole in another dim."""
    axis = "rows"
    while axis in transfer.groupings:
        axis += "'"
    if group == 1:
        return TensorTransfer(
            (Dim((Leaf(axis, rows),)), *transfer.dims[1:]), transfer.roles, transfer.groupings
        )
    lead, rest = transfer.dims[0].terms[0], Dim(transfer.dims[0].terms[1:])
    assert isinstance(lead, Leaf)
    count = rows // rest.size
    whole = transfer.groupings[lead.axis]
    shares = whole.shares[:count] if whole.shares is not None else None
    coarse_of = Grouping.adjacent(count, whole.group_sizes[0]).coarse_of
    grouped = {**transfer.groupings, axis: Grouping(coarse_of, shares, whole.extend)}
    first = Dim((Leaf(axis, count), *rest))
    return TensorTransfer((first, *transfer.dims[1:]), transfer.roles, grouped)
