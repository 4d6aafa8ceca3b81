"""Rules of comparisons, of logic, and of what is chosen by them."""

from __future__ import annotations

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
    at_least_zero,
    conjunction,
    disjunction,
    negation,
    sign,
)
from mlgraph.capture.masks.reader import MaskReader, MaskRule, broadcast, is_integer, is_least
from mlgraph.graph.ops import arguments
from mlgraph.graph.sizes import dtype_of

aten = torch.ops.aten


def _compare(kind: str) -> Callable[[MaskReader, fx.Node], Known | None]:
    def rule(reader: MaskReader, node: fx.Node) -> Known | None:
        first, second = broadcast(reader, node)
        if isinstance(first, Indicator) and isinstance(second, Affine) and not second.coefficients:
            return _compare_indicator(first.condition, kind, second.constant)
        if not isinstance(first, Affine) or not isinstance(second, Affine):
            return None
        if not (is_integer(first) and is_integer(second)):
            return None
        difference = first.plus(second, -1)
        low, high = at_least_zero(difference), at_least_zero(difference.times(-1))
        if kind == "ge":
            return low
        if kind == "le":
            return high
        if kind in ("gt", "lt"):
            return negation(high if kind == "gt" else low)
        equal = conjunction(low, high)
        if difference == Affine(0):
            equal = Condition()
        elif not difference.coefficients and sign(difference.constant) in (1, -1):
            equal = NEVER
        return equal if kind == "eq" else negation(equal)

    return rule


def _compare_indicator(condition: Condition, kind: str, value: Any) -> Condition | None:
    if value not in (0, 1) or kind not in ("eq", "ne", "gt"):
        return None
    positive = (kind == "eq" and value == 1) or (kind in ("ne", "gt") and value == 0)
    if kind == "gt" and value == 1:
        return NEVER
    return condition if positive else negation(condition)


def _both(reader: MaskReader, node: fx.Node) -> Known | None:
    first, second = broadcast(reader, node)
    if isinstance(first, Condition) and isinstance(second, Condition):
        return conjunction(first, second)
    # Nothing is true where one side never is, whatever the other.
    return NEVER if NEVER in (first, second) else None


def _either(reader: MaskReader, node: fx.Node) -> Known | None:
    first, second = broadcast(reader, node)
    if Condition() in (first, second):
        return Condition()
    if isinstance(first, Condition) and isinstance(second, Condition):
        return disjunction(first, second)
    return None


def _not(reader: MaskReader, node: fx.Node) -> Known | None:
    known = reader.value(node.args[0])
    return negation(known) if isinstance(known, Condition) else None


def _where(reader: MaskReader, node: fx.Node) -> Known | None:
    condition = reader.value(node.args[0])
    if not isinstance(condition, Condition):
        return None
    return _choose(reader, node, condition, node.args[1], node.args[2])


def _masked_fill(reader: MaskReader, node: fx.Node) -> Known | None:
    condition = reader.value(node.args[1])
    if not isinstance(condition, Condition):
        return None
    return _choose(reader, node, condition, node.args[2], node.args[0])


def _choose(
    reader: MaskReader, node: fx.Node, condition: Condition, then: Any, otherwise: Any
) -> Known | None:
    first, second = reader.value(then), reader.value(otherwise)
    if condition == Condition():
        return first
    if condition == NEVER:
        return second
    dtype = dtype_of(node)
    negated = negation(condition)
    if _is_value(second, dtype) and first == Affine(0):
        return Additive(condition)
    if _is_value(first, dtype) and negated is not None:
        if second == Affine(0):
            return Additive(negated)
        if isinstance(second, Additive):
            return Additive(conjunction(second.condition, negated))
    return None


def _is_value(known: Known | None, dtype: torch.dtype | None) -> bool:
    return isinstance(known, Affine) and not known.coefficients and is_least(known.constant, dtype)


def _triangle(side: int) -> Callable[[MaskReader, fx.Node], Known | None]:
    def rule(reader: MaskReader, node: fx.Node) -> Known | None:
        known = reader.value(node.args[0])
        diagonal = arguments(node)[1]
        if not isinstance(diagonal, int):
            return None
        # tril keeps column <= row + diagonal, triu column >= row + diagonal
        inside = at_least_zero(affine_of(side * diagonal, {2: side, 1: -side}))
        if known == Affine(1):
            return Indicator(inside)
        if known == Condition():
            return inside
        if _is_value(known, dtype_of(node)):
            outside = negation(inside)
            return None if outside is None else Additive(outside)
        return None

    return rule


RULES: Mapping[Any, MaskRule] = {
    aten.tril.default: _triangle(1),
    aten.triu.default: _triangle(-1),
    aten.where.self: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
    aten.where.Scalar: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    aten.__and__.Tensor: _both,
    aten.bitwise_and.Tensor: _both,
    aten.logical_and.default: _both,
    aten.__or__.Tensor: _either,
    aten.bitwise_or.Tensor: _either,
    aten.logical_or.default: _either,
    aten.bitwise_not.default: _not,
    aten.logical_not.default: _not,
    **{
        getattr(getattr(aten, kind), form): _compare(kind)
        for kind in ("eq", "ne", "lt", "le", "gt", "ge")
        for form in ("Tensor", "Scalar")
    },
}
