"""What each op does to tensors that are known as functions of their indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from mlgraph.masks.functions import (
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
    map_affine,
    move_dims,
    negation,
    sign,
)
from mlgraph.normalize.symbolic import Size, argument_size, arguments, dtype_of, sizes_of

aten = torch.ops.aten


class Reader:
    """Reads nodes as functions of their indices; ``None`` where that fails."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.known: dict[fx.Node, Known | None] = {}

    def read(self, node: fx.Node) -> Known | None:
        """What is known of a node; each is worked out once."""
        pending = [node]
        while pending:
            current = pending[-1]
            missing = [n for n in current.all_input_nodes if n not in self.known]
            if missing and current not in self.known:
                pending.extend(missing)
                continue
            pending.pop()
            if current not in self.known:
                self.known[current] = self._rule(current)
        return self.known[node]

    def value(self, argument: Any) -> Known | None:
        """What is known of an argument: a node or a number."""
        if isinstance(argument, bool):
            return Condition() if argument else NEVER
        if isinstance(argument, int | float):
            return Affine(argument)
        if isinstance(argument, fx.Node):
            if isinstance(argument.meta.get("symbolic"), torch.Tensor):
                return self.known[argument]
            size = argument_size(argument)
            return None if size is None else Affine(size)
        return None

    def _rule(self, node: fx.Node) -> Known | None:
        if node.op == "get_attr":
            return self._constant(node)
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is None or sizes_of(node) is None:
            return None
        return rule(self, node)

    def _constant(self, node: fx.Node) -> Known | None:
        tensor = self.tensors.get(str(node.target))
        if tensor is None or tensor.device.type == "meta" or not tensor.numel():
            return None
        first = tensor.flatten()[0].item()
        if bool((tensor == first).all()):
            return self.value(first)
        if tensor.dim() >= 2 and tensor.numel() == tensor.shape[-1] * tensor.shape[-2]:
            triangle = torch.ones_like(tensor).tril()
            if torch.equal(tensor, triangle):
                condition = Condition(frozenset({affine_of(0, {2: 1, 1: -1})}))
                return condition if tensor.dtype is torch.bool else Indicator(condition)
        return None


def _rank(node: fx.Node) -> int:
    sizes = sizes_of(node)
    assert sizes is not None
    return len(sizes)


# Rules, one per kind of op


def _passes(reader: Reader, node: fx.Node) -> Known | None:
    return reader.value(node.args[0])


def _cast(reader: Reader, node: fx.Node) -> Known | None:
    known, dtype = reader.value(node.args[0]), dtype_of(node)
    if dtype is torch.bool:
        if isinstance(known, Indicator):
            return known.condition
        if isinstance(known, Affine) and not known.coefficients and isinstance(known.constant, int | float):
            return Condition() if known.constant else NEVER
        return known if isinstance(known, Condition) else None
    if isinstance(known, Condition):
        return Indicator(known)
    if isinstance(known, Affine) and not _is_integer(known) and dtype is not None:
        return known if dtype.is_floating_point else None
    return known


def _is_integer(affine: Affine) -> bool:
    values = [affine.constant, *(value for _, value in affine.coefficients)]
    return not any(isinstance(value, float) and not value.is_integer() for value in values)


def _arange(reader: Reader, node: fx.Node) -> Known | None:
    start, step = 0, 1
    if node.target is not aten.arange.default:
        start = arguments(node)[0]
        step = arguments(node)[2] if node.target is aten.arange.start_step else 1
    first = reader.value(start)
    if not isinstance(first, Affine) or not isinstance(step, int):
        return None
    return first.plus(affine_of(0, {1: step}))


def _fill(position: int | None, constant: float = 0) -> Callable[[Reader, fx.Node], Known | None]:
    def rule(reader: Reader, node: fx.Node) -> Known | None:
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


def _unsqueeze(reader: Reader, node: fx.Node) -> Known | None:
    rank = _rank(node)
    at = rank - (arguments(node)[1] % rank)
    return move_dims(reader.value(node.args[0]), lambda dim: dim + 1 if dim >= at else dim)


def _squeeze(reader: Reader, node: fx.Node) -> Known | None:
    source = arguments(node)[0]
    rank = _rank(source)
    if _rank(node) == rank:
        return reader.value(source)
    at = rank - (arguments(node)[1] % rank)
    return move_dims(reader.value(source), lambda dim: None if dim == at else dim - 1 if dim > at else dim)


def _permute(reader: Reader, node: fx.Node) -> Known | None:
    rank = _rank(node)
    if node.target is aten.permute.default:
        order = [dim % rank for dim in arguments(node)[1]]
    else:
        order = list(range(rank))
        first, second = (dim % rank for dim in arguments(node)[1:3])
        order[first], order[second] = order[second], order[first]
    where = {rank - source: rank - target for target, source in enumerate(order)}
    return move_dims(reader.value(node.args[0]), where.get)


def _reshape(reader: Reader, node: fx.Node) -> Known | None:
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


def _expand(reader: Reader, node: fx.Node) -> Known | None:
    source = arguments(node)[0]
    sizes = sizes_of(source) or ()
    # Where a dim of size 1 is repeated the index in it does not count.
    return move_dims(reader.value(source), lambda dim: None if sizes[-dim] == 1 else dim)


def _repeat(reader: Reader, node: fx.Node) -> Known | None:
    """Repeats of dims of size 1 only."""
    source, repeats = arguments(node)
    before = sizes_of(source) or ()
    padded = [1] * (len(repeats) - len(before)) + list(before)
    if any(times != 1 and size != 1 for times, size in zip(repeats, padded, strict=True)):
        return None
    return move_dims(reader.value(source), lambda dim: dim)


def _slice(reader: Reader, node: fx.Node) -> Known | None:
    _, dim, start, _, step = arguments(node)
    start = 0 if start is None else start
    if not isinstance(step, int) or (isinstance(start, int) and start < 0):
        return None
    return _shift(reader, node, dim, start, step)


def _select(reader: Reader, node: fx.Node) -> Known | None:
    source, dim, index = arguments(node)
    rank = _rank(source)
    at = rank - dim % rank
    if isinstance(index, int) and index < 0:
        return None
    shifted = _shift(reader, node, dim % rank, index, 0)
    return move_dims(shifted, lambda d: d - 1 if d > at else d)


def _shift(reader: Reader, node: fx.Node, dim: int, start: Any, step: int) -> Known | None:
    """The index in one dim of the source replaced by ``start + step · index``."""
    source = arguments(node)[0]
    rank = _rank(source)
    at = rank - dim % rank
    first = reader.value(start)
    if not isinstance(first, Affine):
        return None

    def change(affine: Affine) -> Affine:
        coefficients = dict(affine.coefficients)
        value = coefficients.pop(at, 0)
        return affine_of(affine.constant, coefficients).plus(first.plus(affine_of(0, {at: step})), value)

    return map_affine(reader.value(source), change)


def _arithmetic(factor: int, swapped: bool = False) -> Callable[[Reader, fx.Node], Known | None]:
    def rule(reader: Reader, node: fx.Node) -> Known | None:
        first, second = _broadcast(reader, node)
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


def _multiply(reader: Reader, node: fx.Node) -> Known | None:
    first, second = _broadcast(reader, node)
    for one, other in ((first, second), (second, first)):
        if isinstance(other, Affine) and not other.coefficients:
            if isinstance(one, Affine):
                return one.times(other.constant)
            if isinstance(one, Indicator) and _is_least(other.constant, dtype_of(node)):
                # infinity times the zeros of the indicator is not a number
                negated = None if math.isinf(other.constant) else negation(one.condition)
                return None if negated is None else Additive(negated)
    if isinstance(first, Condition) and isinstance(second, Condition):
        return conjunction(first, second)
    if isinstance(first, Indicator) and isinstance(second, Indicator):
        return Indicator(conjunction(first.condition, second.condition))
    return None


def _is_least(value: Any, dtype: torch.dtype | None) -> bool:
    if not isinstance(value, int | float) or dtype is None or not dtype.is_floating_point:
        return False
    return value <= torch.finfo(dtype).min


def _broadcast(reader: Reader, node: fx.Node) -> tuple[Known | None, Known | None]:
    """Both operands; dims count from the end, so that broadcasting only forgets dims of size 1."""
    operands = []
    for argument in node.args[:2]:
        known = reader.value(argument)
        sizes = sizes_of(argument) if isinstance(argument, fx.Node) else None
        if sizes is not None:
            known = _forget_single(known, sizes)
        operands.append(known)
    return operands[0], operands[1]


def _forget_single(known: Known | None, sizes: tuple[Size, ...]) -> Known | None:
    return move_dims(known, lambda dim: None if sizes[-dim] == 1 else dim)


def _compare(kind: str) -> Callable[[Reader, fx.Node], Known | None]:
    def rule(reader: Reader, node: fx.Node) -> Known | None:
        first, second = _broadcast(reader, node)
        if isinstance(first, Indicator) and isinstance(second, Affine) and not second.coefficients:
            return _compare_indicator(first.condition, kind, second.constant)
        if not isinstance(first, Affine) or not isinstance(second, Affine):
            return None
        if not (_is_integer(first) and _is_integer(second)):
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


def _both(reader: Reader, node: fx.Node) -> Known | None:
    first, second = _broadcast(reader, node)
    if isinstance(first, Condition) and isinstance(second, Condition):
        return conjunction(first, second)
    # Nothing is true where one side never is, whatever the other.
    return NEVER if NEVER in (first, second) else None


def _either(reader: Reader, node: fx.Node) -> Known | None:
    first, second = _broadcast(reader, node)
    if Condition() in (first, second):
        return Condition()
    if isinstance(first, Condition) and isinstance(second, Condition):
        return disjunction(first, second)
    return None


def _not(reader: Reader, node: fx.Node) -> Known | None:
    known = reader.value(node.args[0])
    return negation(known) if isinstance(known, Condition) else None


def _where(reader: Reader, node: fx.Node) -> Known | None:
    condition = reader.value(node.args[0])
    if not isinstance(condition, Condition):
        return None
    return _choose(reader, node, condition, node.args[1], node.args[2])


def _masked_fill(reader: Reader, node: fx.Node) -> Known | None:
    condition = reader.value(node.args[1])
    if not isinstance(condition, Condition):
        return None
    return _choose(reader, node, condition, node.args[2], node.args[0])


def _choose(reader: Reader, node: fx.Node, condition: Condition, then: Any, otherwise: Any) -> Known | None:
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
    return isinstance(known, Affine) and not known.coefficients and _is_least(known.constant, dtype)


def _triangle(side: int) -> Callable[[Reader, fx.Node], Known | None]:
    def rule(reader: Reader, node: fx.Node) -> Known | None:
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


def _diff(reader: Reader, node: fx.Node) -> Known | None:
    """First differences; constant ones only (as of a range with the value before it put in front)."""
    source = arguments(node)[0]
    known = reader.value(source)
    _, order, dim, before, after = arguments(node)
    if order != 1 or after is not None or not isinstance(known, Affine):
        return None
    at = _rank(source) - dim % _rank(source)
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


def _cumsum(reader: Reader, node: fx.Node) -> Known | None:
    known = reader.value(node.args[0])
    if known in (NEVER, Affine(0)) or (isinstance(known, Indicator) and known.condition == NEVER):
        return Affine(0)
    source = arguments(node)[0]
    at = _rank(source) - arguments(node)[1] % _rank(source)
    if known in (Condition(), Affine(1)):
        return affine_of(1, {at: 1})
    return None


def _index(reader: Reader, node: fx.Node) -> Known | None:
    """A lookup at affine indices along the leading dims."""
    source, indices = arguments(node)
    known = reader.value(source)
    if known is None:
        return None
    rank, result = _rank(source), _rank(node)
    if isinstance(known, Affine) and not known.coefficients:
        return known
    if known in (Condition(), NEVER):
        return known
    places: dict[int, Affine] = {}
    for dim, index in enumerate(indices):
        if not isinstance(index, fx.Node) or dtype_of(index) is torch.bool:
            return None
        place = _forget_single(reader.value(index), sizes_of(index) or ())
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


_RULES: dict[Any, Callable[[Reader, fx.Node], Known | None]] = {
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
    aten.add.Tensor: _arithmetic(1),
    aten.sub.Tensor: _arithmetic(-1),
    aten.rsub.Scalar: _arithmetic(-1, swapped=True),
    aten.rsub.Tensor: _arithmetic(-1, swapped=True),
    aten.mul.Tensor: _multiply,
    aten.tril.default: _triangle(1),
    aten.triu.default: _triangle(-1),
    aten.diff.default: _diff,
    aten.cumsum.default: _cumsum,
    aten.index.Tensor: _index,
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
    aten.to.dtype: _cast,
    **dict.fromkeys(
        (aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default), _passes
    ),
    **{getattr(getattr(aten, kind), form): _compare(kind) for kind in ("eq", "ne", "lt", "le", "gt", "ge")
       for form in ("Tensor", "Scalar")},
}  # fmt: skip
