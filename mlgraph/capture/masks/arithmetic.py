"""Rules of ops that make or compute numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from mlgraph.capture.masks.functions import (
    NEVER,
    Additive,
    Affine,
    Condition,
    Indicator,
    Known,
    affine_of,
    conjunction,
    negation,
)
from mlgraph.capture.masks.reader import MaskReader, MaskRule, broadcast, is_integer, is_least, rank_of
from mlgraph.graph.ops import arguments
from mlgraph.graph.sizes import dtype_of, sizes_of

aten = torch.ops.aten


def _cast(reader: MaskReader, node: fx.Node) -> Known | None:
    known, dtype = reader.value(node.args[0]), dtype_of(node)
    if dtype is torch.bool:
        if isinstance(known, Indicator):
            return known.condition
        if isinstance(known, Affine) and not known.coefficients and isinstance(known.constant, int | float):
            return Condition() if known.constant else NEVER
        return known if isinstance(known, Condition) else None
    if isinstance(known, Condition):
        return Indicator(known)
    if isinstance(known, Affine) and not is_integer(known) and dtype is not None:
        return known if dtype.is_floating_point else None
    return known


def _arange(reader: MaskReader, node: fx.Node) -> Known | None:
    start, step = 0, 1
    if node.target is not aten.arange.default:
        start = arguments(node)[0]
        step = arguments(node)[2] if node.target is aten.arange.start_step else 1
    first = reader.value(start)
    if not isinstance(first, Affine) or not isinstance(step, int):
        return None
    return first.plus(affine_of(0, {1: step}))


def _fill(position: int | None, constant: float = 0) -> Callable[[MaskReader, fx.Node], Known | None]:
    def rule(reader: MaskReader, node: fx.Node) -> Known | None:
        value = constant if position is None else arguments(node)[position]
        known = reader.value(value)
        if (
            dtype_of(node) is torch.bool
            and isinstance(known, Affine)
            and isinstance(known.constant, int | float)
        ):
            return Condition() if known.constant else NEVER
        if isinstance(known, Condition) and dtype_of(node) is not torch.bool:
            return Affine(int(known == Condition()))
        return known

    return rule


def _arithmetic(factor: int, swapped: bool = False) -> Callable[[MaskReader, fx.Node], Known | None]:
    def rule(reader: MaskReader, node: fx.Node) -> Known | None:
        first, second = broadcast(reader, node)
        if swapped:
            first, second = second, first
        alpha = node.kwargs.get("alpha", 1)
        if not isinstance(alpha, int):
            return None
        times = factor * alpha
        if isinstance(first, Affine) and isinstance(second, Affine):
            return first.plus(second, times)
        if isinstance(second, Indicator) and first == Affine(1) and times == -1:
            negated = negation(second.condition)
            return None if negated is None else Indicator(negated)
        if isinstance(first, Additive) and isinstance(second, Additive) and times == 1:
            return Additive(conjunction(first.condition, second.condition))
        if isinstance(first, Additive) and second == Affine(0):
            return first
        if isinstance(second, Additive) and first == Affine(0) and times == 1:
            return second
        return None

    return rule


def _multiply(reader: MaskReader, node: fx.Node) -> Known | None:
    first, second = broadcast(reader, node)
    for one, other in ((first, second), (second, first)):
        if isinstance(other, Affine) and not other.coefficients:
            if isinstance(one, Affine):
                return one.times(other.constant)
            if isinstance(one, Indicator) and is_least(other.constant, dtype_of(node)):
                # infinity times the zeros of the indicator is not a number
                negated = None if math.isinf(other.constant) else negation(one.condition)
                return None if negated is None else Additive(negated)
    if isinstance(first, Condition) and isinstance(second, Condition):
        return conjunction(first, second)
    if isinstance(first, Indicator) and isinstance(second, Indicator):
        return Indicator(conjunction(first.condition, second.condition))
    return None


def _diff(reader: MaskReader, node: fx.Node) -> Known | None:
    """First differences; constant ones only (as of a range with the value before it put in front)."""
    source = arguments(node)[0]
    known = reader.value(source)
    _, order, dim, before, after = arguments(node)
    if order != 1 or after is not None or not isinstance(known, Affine):
        return None
    at = rank_of(source) - dim % rank_of(source)
    step = Affine(dict(known.coefficients).get(at, 0))
    if before is None:
        return step
    first = reader.value(before)
    sizes = sizes_of(before) if isinstance(before, fx.Node) else None
    if not isinstance(first, Affine) or sizes is None or sizes[-at] != 1:
        return None
    start = affine_of(known.constant, {d: c for d, c in known.coefficients if d != at})
    before_start = affine_of(first.constant, {d: c for d, c in first.coefficients if d != at})
    return step if start.plus(before_start, -1) == step else None


def _cumsum(reader: MaskReader, node: fx.Node) -> Known | None:
    known = reader.value(node.args[0])
    if known in (NEVER, Affine(0)) or (isinstance(known, Indicator) and known.condition == NEVER):
        return Affine(0)
    source = arguments(node)[0]
    at = rank_of(source) - arguments(node)[1] % rank_of(source)
    if known in (Condition(), Affine(1)):
        return affine_of(1, {at: 1})
    return None


RULES: Mapping[Any, MaskRule] = {
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.full.default: _fill(1),
    aten.full_like.default: _fill(1),
    aten.new_full.default: _fill(2),
    aten.scalar_tensor.default: _fill(0),
    aten.zeros.default: _fill(None, 0),
    aten.zeros_like.default: _fill(None, 0),
    aten.new_zeros.default: _fill(None, 0),
    aten.ones.default: _fill(None, 1),
    aten.ones_like.default: _fill(None, 1),
    aten.new_ones.default: _fill(None, 1),
    aten.add.Tensor: _arithmetic(1),
    aten.sub.Tensor: _arithmetic(-1),
    aten.rsub.Scalar: _arithmetic(-1, swapped=True),
    aten.rsub.Tensor: _arithmetic(-1, swapped=True),
    aten.mul.Tensor: _multiply,
    aten.diff.default: _diff,
    aten.cumsum.default: _cumsum,
    aten.to.dtype: _cast,
}
