"""Rules of ops that rearrange indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from mlgraph.capture.masks.functions import (
    NEVER,
    Affine,
    Condition,
    Known,
    affine_of,
    at_least_zero,
    map_affine,
    move_dims,
)
from mlgraph.capture.masks.reader import MaskReader, MaskRule, forget_single, rank_of
from mlgraph.graph.ops import arguments
from mlgraph.graph.sizes import dtype_of, sizes_of

aten = torch.ops.aten


def _passes(reader: MaskReader, node: fx.Node) -> Known | None:
    return reader.value(node.args[0])


def _unsqueeze(reader: MaskReader, node: fx.Node) -> Known | None:
    rank = rank_of(node)
    at = rank - (arguments(node)[1] % rank)
    return move_dims(reader.value(node.args[0]), lambda dim: dim + 1 if dim >= at else dim)


def _squeeze(reader: MaskReader, node: fx.Node) -> Known | None:
    source = arguments(node)[0]
    rank = rank_of(source)
    if rank_of(node) == rank:
        return reader.value(source)
    at = rank - (arguments(node)[1] % rank)
    return move_dims(reader.value(source), lambda dim: None if dim == at else dim - 1 if dim > at else dim)


def _permute(reader: MaskReader, node: fx.Node) -> Known | None:
    rank = rank_of(node)
    if node.target is aten.permute.default:
        order = [dim % rank for dim in arguments(node)[1]]
    else:
        order = list(range(rank))
        first, second = (dim % rank for dim in arguments(node)[1:3])
        order[first], order[second] = order[second], order[first]
    where = {rank - source: rank - target for target, source in enumerate(order)}
    return move_dims(reader.value(node.args[0]), where.get)


def _reshape(reader: MaskReader, node: fx.Node) -> Known | None:
    """Reshapes that only add or remove dims of size 1."""
    source = arguments(node)[0]
    before, after = sizes_of(source), sizes_of(node)
    if before is None or after is None:
        return None
    old = [len(before) - dim for dim, size in enumerate(before) if size != 1]
    new = [len(after) - dim for dim, size in enumerate(after) if size != 1]
    if [before[-dim] for dim in old] != [after[-dim] for dim in new]:
        return None
    where = dict(zip(old, new, strict=True))
    return move_dims(reader.value(source), where.get)


def _expand(reader: MaskReader, node: fx.Node) -> Known | None:
    source = arguments(node)[0]
    sizes = sizes_of(source) or ()
    # Where a dim of size 1 is repeated the index in it does not count.
    return move_dims(reader.value(source), lambda dim: None if sizes[-dim] == 1 else dim)


def _repeat(reader: MaskReader, node: fx.Node) -> Known | None:
    """Repeats of dims of size 1 only."""
    source, repeats = arguments(node)
    before = sizes_of(source) or ()
    padded = [1] * (len(repeats) - len(before)) + list(before)
    if any(times != 1 and size != 1 for times, size in zip(repeats, padded, strict=True)):
        return None
    return move_dims(reader.value(source), lambda dim: dim)


def _slice(reader: MaskReader, node: fx.Node) -> Known | None:
    _, dim, start, _, step = arguments(node)
    start = 0 if start is None else start
    if not isinstance(step, int) or (isinstance(start, int) and start < 0):
        return None
    return _shift(reader, node, dim, start, step)


def _select(reader: MaskReader, node: fx.Node) -> Known | None:
    source, dim, index = arguments(node)
    rank = rank_of(source)
    at = rank - dim % rank
    if isinstance(index, int) and index < 0:
        return None
    shifted = _shift(reader, node, dim % rank, index, 0)
    return move_dims(shifted, lambda d: d - 1 if d > at else d)


def _shift(reader: MaskReader, node: fx.Node, dim: int, start: Any, step: int) -> Known | None:
    """The index in one dim of the source replaced by ``start + step · index``."""
    source = arguments(node)[0]
    rank = rank_of(source)
    at = rank - dim % rank
    first = reader.value(start)
    if not isinstance(first, Affine):
        return None

    def change(affine: Affine) -> Affine:
        coefficients = dict(affine.coefficients)
        value = coefficients.pop(at, 0)
        return affine_of(affine.constant, coefficients).plus(first.plus(affine_of(0, {at: step})), value)

    return map_affine(reader.value(source), change)


def _index(reader: MaskReader, node: fx.Node) -> Known | None:
    """A lookup at affine indices along the leading dims."""
    source, indices = arguments(node)
    known = reader.value(source)
    if known is None:
        return None
    rank, result = rank_of(source), rank_of(node)
    if isinstance(known, Affine) and not known.coefficients:
        return known
    if known in (Condition(), NEVER):
        return known
    places: dict[int, Affine] = {}
    for dim, index in enumerate(indices):
        if not isinstance(index, fx.Node) or dtype_of(index) is torch.bool:
            return None
        place = forget_single(reader.value(index), sizes_of(index) or ())
        if not isinstance(place, Affine) or _may_be_negative(place):
            return None
        # dims that are not looked up stand behind the looked-up ones
        behind = rank - len(indices)
        places[rank - dim] = affine_of(place.constant, {d + behind: c for d, c in place.coefficients})
    if result < rank - len(indices):
        return None

    def change(affine: Affine) -> Affine:
        total = Affine(affine.constant)
        for dim, value in affine.coefficients:
            total = total.plus(places.get(dim, affine_of(0, {dim: 1})), value)
        return total

    return map_affine(known, change)


def _may_be_negative(affine: Affine) -> bool:
    # Negative indices count from the end and are not affine.
    return at_least_zero(affine) != Condition()


RULES: Mapping[Any, MaskRule] = {
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.permute.default: _permute,
    aten.transpose.int: _permute,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    **dict.fromkeys(
        (aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default), _passes
    ),
}
