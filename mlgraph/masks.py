"""Attention masks proved causal, or true everywhere, from the graph that computes them.

Models build their masks from ranges, comparisons and lookups, even where the result is always the lower
triangle. Each node of such a graph is read as a function of its indices: an integer tensor as an
affine function, a boolean one as a conjunction of affine inequalities, an additive mask by where it
is zero. What is proved so holds for every input size; no example is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mlgraph.normalize.symbolic import Size, argument_size, dtype_of, sizes_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Affine:
    """``constant + Σ coefficients[d] · index_d`` as the value at each index; dims count from the end."""

    constant: Any
    coefficients: tuple[tuple[int, Any], ...] = ()

    def plus(self, other: Affine, factor: Any = 1) -> Affine:
        total = dict(self.coefficients)
        for dim, value in other.coefficients:
            total[dim] = total.get(dim, 0) + factor * value
        return _affine(self.constant + factor * other.constant, total)

    def times(self, factor: Any) -> Affine:
        return Affine(0).plus(self, factor)


@dataclass(frozen=True)
class Condition:
    """True where every one of ``atoms`` (affine functions) is at least 0; with none, true everywhere."""

    atoms: frozenset[Affine] = frozenset()


@dataclass(frozen=True)
class Indicator:
    """A number: 1 where the condition is true, 0 elsewhere."""

    condition: Condition


@dataclass(frozen=True)
class Additive:
    """A float: 0 where the condition is true, minus infinity (or the least finite number) elsewhere."""

    condition: Condition


NEVER = Condition(frozenset({Affine(-1)}))
Known = Affine | Condition | Indicator | Additive


def simplify_masks(graph: fx.Graph, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace attention masks that are the lower triangle by ``is_causal`` and all-true ones by none.

    ``tensors`` holds the constants whose values may be relied on. The triangle is replaced only where
    query and key lengths are the same for every input.
    """
    reader = _Reader(tensors)
    for node in graph.nodes:
        if node.target is aten.scaled_dot_product_attention.default:
            _simplify_attention(node, reader)


def _simplify_attention(node: fx.Node, reader: _Reader) -> None:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    mask = given.get("attn_mask")
    if not isinstance(mask, fx.Node) or given.get("is_causal", False):
        return
    known = reader.read(mask)
    if isinstance(known, Additive):
        known = known.condition
    if not isinstance(known, Condition):
        return
    query, key = sizes_of(given["query"]), sizes_of(given["key"])
    if known == Condition():
        causal = False
    elif known == Condition(frozenset({_affine(0, {2: 1, 1: -1})})):
        if query is None or key is None or query[-2] != key[-2]:
            return
        causal = True
    else:
        return
    node.args = (given["query"], given["key"], given["value"], None, given.get("dropout_p", 0.0), causal)
    node.kwargs = {name: given[name] for name in ("scale", "enable_gqa") if name in given}


def _affine(constant: Any, coefficients: Mapping[int, Any]) -> Affine:
    return Affine(constant, tuple(sorted((d, c) for d, c in coefficients.items() if c != 0)))


class _Reader:
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
                condition = Condition(frozenset({_affine(0, {2: 1, 1: -1})}))
                return condition if tensor.dtype is torch.bool else Indicator(condition)
        return None


def _rank(node: fx.Node) -> int:
    sizes = sizes_of(node)
    assert sizes is not None
    return len(sizes)


def _map_affine(known: Known | None, change: Callable[[Affine], Affine | None]) -> Known | None:
    """A function of other indices: ``change`` is put to every affine part."""
    if known is None:
        return None
    if isinstance(known, Affine):
        return change(known)
    condition = known if isinstance(known, Condition) else known.condition
    atoms = [change(atom) for atom in condition.atoms]
    if any(atom is None for atom in atoms):
        return None
    changed = Condition(frozenset(atom for atom in atoms if atom is not None))
    return changed if isinstance(known, Condition) else type(known)(changed)


def _move_dims(known: Known | None, where: Callable[[int], int | None]) -> Known | None:
    """Rename dims (counted from the end); a dim moved to ``None`` has size 1 and index 0."""

    def change(affine: Affine) -> Affine:
        moved = {}
        for dim, value in affine.coefficients:
            target = where(dim)
            if target is not None:
                moved[target] = value
        return _affine(affine.constant, moved)

    return _map_affine(known, change)


def _at_least_zero(affine: Affine) -> Condition:
    """Indices are never negative, so signs may settle the inequality."""
    signs = [_sign(value) for _, value in affine.coefficients]
    if all(s == 1 for s in signs) and _sign(affine.constant) in (0, 1):
        return Condition()
    if all(s == -1 for s in signs) and _sign(affine.constant) == -1:
        return NEVER
    return Condition(frozenset({affine}))


def _sign(value: Any) -> int | None:
    """The sign of a number or of an expression in sizes, which are positive; None where it is open."""
    if isinstance(value, int | float):
        return (value > 0) - (value < 0)
    if value.is_zero:
        return 0
    if value.is_positive:
        return 1
    return -1 if value.is_negative else None


def _conjunction(first: Condition, second: Condition) -> Condition:
    if NEVER in (first, second):
        return NEVER
    return Condition(first.atoms | second.atoms)


def _negation(condition: Condition) -> Condition | None:
    if condition == Condition():
        return NEVER
    if condition == NEVER:
        return Condition()
    if len(condition.atoms) != 1:
        return None
    (atom,) = condition.atoms
    return _at_least_zero(Affine(-1).plus(atom, -1))


def _disjunction(first: Condition, second: Condition) -> Condition | None:
    if Condition() in (first, second):
        return Condition()
    if first == NEVER or second == first:
        return second
    return first if second == NEVER else None


# Rules, one per kind of op


def _passes(reader: _Reader, node: fx.Node) -> Known | None:
    return reader.value(node.args[0])


def _cast(reader: _Reader, node: fx.Node) -> Known | None:
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


def _arange(reader: _Reader, node: fx.Node) -> Known | None:
    if node.target is aten.arange.default:
        start, step = 0, 1
    else:
        start = node.args[0]  # type: ignore[assignment]
        step = node.args[2] if len(node.args) > 2 else 1  # type: ignore[assignment]
    first = reader.value(start)
    if not isinstance(first, Affine) or not isinstance(step, int):
        return None
    return first.plus(_affine(0, {1: step}))


def _fill(position: int | None, constant: float = 0) -> Callable[[_Reader, fx.Node], Known | None]:
    def rule(reader: _Reader, node: fx.Node) -> Known | None:
        value = constant if position is None else node.args[position]
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


def _unsqueeze(reader: _Reader, node: fx.Node) -> Known | None:
    rank = _rank(node)
    at = rank - (int(node.args[1]) % rank)  # type: ignore[call-overload]
    return _move_dims(reader.value(node.args[0]), lambda dim: dim + 1 if dim >= at else dim)


def _squeeze(reader: _Reader, node: fx.Node) -> Known | None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = _rank(source)
    if _rank(node) == rank:
        return reader.value(source)
    at = rank - (int(node.args[1]) % rank)  # type: ignore[call-overload]
    return _move_dims(reader.value(source), lambda dim: None if dim == at else dim - 1 if dim > at else dim)


def _permute(reader: _Reader, node: fx.Node) -> Known | None:
    rank = _rank(node)
    if node.target is aten.permute.default:
        order = [int(dim) % rank for dim in node.args[1]]  # type: ignore[union-attr]
    else:
        order = list(range(rank))
        first, second = (int(dim) % rank for dim in node.args[1:3])  # type: ignore[call-overload]
        order[first], order[second] = order[second], order[first]
    where = {rank - source: rank - target for target, source in enumerate(order)}
    return _move_dims(reader.value(node.args[0]), where.get)


def _reshape(reader: _Reader, node: fx.Node) -> Known | None:
    """Reshapes that only add or remove dims of size 1."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before, after = sizes_of(source), sizes_of(node)
    if before is None or after is None:
        return None
    old = [len(before) - dim for dim, size in enumerate(before) if size != 1]
    new = [len(after) - dim for dim, size in enumerate(after) if size != 1]
    if [before[-dim] for dim in old] != [after[-dim] for dim in new]:
        return None
    where = dict(zip(old, new, strict=True))
    return _move_dims(reader.value(source), where.get)


def _expand(reader: _Reader, node: fx.Node) -> Known | None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    sizes = sizes_of(source) or ()
    # Where a dim of size 1 is repeated the index in it does not count.
    return _move_dims(reader.value(source), lambda dim: None if sizes[-dim] == 1 else dim)


def _slice(reader: _Reader, node: fx.Node) -> Known | None:
    dim = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    start = node.args[2] if len(node.args) > 2 else 0
    step = node.args[4] if len(node.args) > 4 else 1
    start = 0 if start is None else start
    if not isinstance(step, int) or (isinstance(start, int) and start < 0):
        return None
    return _shift(reader, node, dim, start, step)


def _select(reader: _Reader, node: fx.Node) -> Known | None:
    source, dim, index = node.args
    assert isinstance(source, fx.Node)
    rank = _rank(source)
    at = rank - (int(dim) % rank)  # type: ignore[call-overload]
    if isinstance(index, int) and index < 0:
        return None
    shifted = _shift(reader, node, int(dim) % rank, index, 0)  # type: ignore[call-overload]
    return _move_dims(shifted, lambda d: d - 1 if d > at else d)


def _shift(reader: _Reader, node: fx.Node, dim: int, start: Any, step: int) -> Known | None:
    """The index in one dim of the source replaced by ``start + step · index``."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = _rank(source)
    at = rank - dim % rank
    first = reader.value(start)
    if not isinstance(first, Affine):
        return None

    def change(affine: Affine) -> Affine:
        coefficients = dict(affine.coefficients)
        value = coefficients.pop(at, 0)
        return _affine(affine.constant, coefficients).plus(first.plus(_affine(0, {at: step})), value)

    return _map_affine(reader.value(source), change)


def _arithmetic(sign: int, swapped: bool = False) -> Callable[[_Reader, fx.Node], Known | None]:
    def rule(reader: _Reader, node: fx.Node) -> Known | None:
        first, second = _broadcast(reader, node)
        if swapped:
            first, second = second, first
        factor = node.kwargs.get("alpha", 1)
        if not isinstance(factor, int):
            return None
        if isinstance(first, Affine) and isinstance(second, Affine):
            return first.plus(second, sign * factor)
        if isinstance(second, Indicator) and first == Affine(1) and sign * factor == -1:
            negated = _negation(second.condition)
            return None if negated is None else Indicator(negated)
        if isinstance(first, Additive) and isinstance(second, Additive) and sign * factor == 1:
            return Additive(_conjunction(first.condition, second.condition))
        if isinstance(first, Additive) and second == Affine(0):
            return first
        if isinstance(second, Additive) and first == Affine(0) and sign * factor == 1:
            return second
        return None

    return rule


def _multiply(reader: _Reader, node: fx.Node) -> Known | None:
    first, second = _broadcast(reader, node)
    for one, other in ((first, second), (second, first)):
        if isinstance(other, Affine) and not other.coefficients:
            if isinstance(one, Affine):
                return one.times(other.constant)
            if isinstance(one, Indicator) and _is_least(other.constant, dtype_of(node)):
                # infinity times the zeros of the indicator is not a number
                negated = None if math.isinf(other.constant) else _negation(one.condition)
                return None if negated is None else Additive(negated)
    if isinstance(first, Condition) and isinstance(second, Condition):
        return _conjunction(first, second)
    if isinstance(first, Indicator) and isinstance(second, Indicator):
        return Indicator(_conjunction(first.condition, second.condition))
    return None


def _is_least(value: Any, dtype: torch.dtype | None) -> bool:
    if not isinstance(value, int | float) or dtype is None or not dtype.is_floating_point:
        return False
    return value <= torch.finfo(dtype).min


def _broadcast(reader: _Reader, node: fx.Node) -> tuple[Known | None, Known | None]:
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
    return _move_dims(known, lambda dim: None if sizes[-dim] == 1 else dim)


def _compare(kind: str) -> Callable[[_Reader, fx.Node], Known | None]:
    def rule(reader: _Reader, node: fx.Node) -> Known | None:
        first, second = _broadcast(reader, node)
        if isinstance(first, Indicator) and isinstance(second, Affine) and not second.coefficients:
            return _compare_indicator(first.condition, kind, second.constant)
        if not isinstance(first, Affine) or not isinstance(second, Affine):
            return None
        if not (_is_integer(first) and _is_integer(second)):
            return None
        difference = first.plus(second, -1)
        low, high = _at_least_zero(difference), _at_least_zero(difference.times(-1))
        if kind == "ge":
            return low
        if kind == "le":
            return high
        if kind in ("gt", "lt"):
            return _negation(high if kind == "gt" else low)
        equal = _conjunction(low, high)
        if difference == Affine(0):
            equal = Condition()
        elif not difference.coefficients and _sign(difference.constant) in (1, -1):
            equal = NEVER
        return equal if kind == "eq" else _negation(equal)

    return rule


def _compare_indicator(condition: Condition, kind: str, value: Any) -> Condition | None:
    if value not in (0, 1) or kind not in ("eq", "ne", "gt"):
        return None
    positive = (kind == "eq" and value == 1) or (kind in ("ne", "gt") and value == 0)
    if kind == "gt" and value == 1:
        return NEVER
    return condition if positive else _negation(condition)


def _both(reader: _Reader, node: fx.Node) -> Known | None:
    first, second = _broadcast(reader, node)
    if isinstance(first, Condition) and isinstance(second, Condition):
        return _conjunction(first, second)
    # Nothing is true where one side never is, whatever the other.
    return NEVER if NEVER in (first, second) else None


def _either(reader: _Reader, node: fx.Node) -> Known | None:
    first, second = _broadcast(reader, node)
    if Condition() in (first, second):
        return Condition()
    if isinstance(first, Condition) and isinstance(second, Condition):
        return _disjunction(first, second)
    return None


def _not(reader: _Reader, node: fx.Node) -> Known | None:
    known = reader.value(node.args[0])
    return _negation(known) if isinstance(known, Condition) else None


def _where(reader: _Reader, node: fx.Node) -> Known | None:
    condition = reader.value(node.args[0])
    if not isinstance(condition, Condition):
        return None
    return _choose(reader, node, condition, node.args[1], node.args[2])


def _masked_fill(reader: _Reader, node: fx.Node) -> Known | None:
    condition = reader.value(node.args[1])
    if not isinstance(condition, Condition):
        return None
    return _choose(reader, node, condition, node.args[2], node.args[0])


def _choose(reader: _Reader, node: fx.Node, condition: Condition, then: Any, otherwise: Any) -> Known | None:
    first, second = reader.value(then), reader.value(otherwise)
    if condition == Condition():
        return first
    if condition == NEVER:
        return second
    dtype = dtype_of(node)
    negated = _negation(condition)
    if _is_value(second, dtype) and first == Affine(0):
        return Additive(condition)
    if _is_value(first, dtype) and negated is not None:
        if second == Affine(0):
            return Additive(negated)
        if isinstance(second, Additive):
            return Additive(_conjunction(second.condition, negated))
    return None


def _is_value(known: Known | None, dtype: torch.dtype | None) -> bool:
    return isinstance(known, Affine) and not known.coefficients and _is_least(known.constant, dtype)


def _triangle(sign: int) -> Callable[[_Reader, fx.Node], Known | None]:
    def rule(reader: _Reader, node: fx.Node) -> Known | None:
        known = reader.value(node.args[0])
        diagonal = node.args[1] if len(node.args) > 1 else node.kwargs.get("diagonal", 0)
        if not isinstance(diagonal, int):
            return None
        # tril keeps column <= row + diagonal, triu column >= row + diagonal
        inside = _at_least_zero(_affine(sign * diagonal, {2: sign, 1: -sign}))
        if known == Affine(1):
            return Indicator(inside)
        if known == Condition():
            return inside
        if _is_value(known, dtype_of(node)):
            outside = _negation(inside)
            return None if outside is None else Additive(outside)
        return None

    return rule


def _diff(reader: _Reader, node: fx.Node) -> Known | None:
    """First differences; constant ones only (as of a range with the value before it put in front)."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    known = reader.value(source)
    order = node.args[1] if len(node.args) > 1 else 1
    dim = int(node.args[2]) if len(node.args) > 2 else -1  # type: ignore[arg-type]
    before = node.args[3] if len(node.args) > 3 else None
    after = node.args[4] if len(node.args) > 4 else None
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
    start = _affine(known.constant, {d: c for d, c in known.coefficients if d != at})
    before_start = _affine(first.constant, {d: c for d, c in first.coefficients if d != at})
    return step if start.plus(before_start, -1) == step else None


def _cumsum(reader: _Reader, node: fx.Node) -> Known | None:
    known = reader.value(node.args[0])
    if known in (NEVER, Affine(0)) or (isinstance(known, Indicator) and known.condition == NEVER):
        return Affine(0)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    at = _rank(source) - int(node.args[1]) % _rank(source)  # type: ignore[call-overload]
    if known in (Condition(), Affine(1)):
        return _affine(1, {at: 1})
    return None


def _index(reader: _Reader, node: fx.Node) -> Known | None:
    """A lookup at affine indices along the leading dims."""
    source, indices = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(indices, list | tuple)
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
        places[rank - dim] = _affine(place.constant, {d + behind: c for d, c in place.coefficients})
    if result < rank - len(indices):
        return None

    def change(affine: Affine) -> Affine:
        total = Affine(affine.constant)
        for dim, value in affine.coefficients:
            total = total.plus(places.get(dim, _affine(0, {dim: 1})), value)
        return total

    return _map_affine(known, change)


def _may_be_negative(affine: Affine) -> bool:
    # Negative indices count from the end and are not affine.
    return _at_least_zero(affine) != Condition()


_RULES: dict[Any, Callable[[_Reader, fx.Node], Known | None]] = {
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
