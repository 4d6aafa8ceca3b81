"""The rule table: ops to rules, and what a rule may call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import fx

from mlgraph.axes.factors import Factors

if TYPE_CHECKING:
    from mlgraph.program.axis_table import ReasonKind

DimList = list[Factors]
RuleResult = DimList | list[DimList] | None


class Context(Protocol):
    """What inference offers to a rule."""

    def dims(self, argument: Any) -> DimList:
        """Dims of a node's tensor value (empty for anything else)."""

    def fresh(
        self, node: fx.Node, frozen: str = "", output: int | None = None, kind: ReasonKind = "op"
    ) -> DimList:
        """New unrelated dims of the node's result, frozen if a reason is given."""

    def unify(self, a: Factors, b: Factors, node: fx.Node) -> None:
        """Make two dims one; freezes both where they cannot be aligned."""

    def freeze(self, dim: Factors, text: str, node: fx.Node, kind: ReasonKind = "op") -> None:
        """Keep a dim from being coarsened at all, for the reason given."""

    def block(self, dim: Factors, text: str, node: fx.Node, kind: ReasonKind = "inexact") -> None:
        """Keep a dim from being coarsened by default; unless ``inexact``, a change asked for is exact."""

    def contract(self, node: fx.Node, dim: Factors, operands: Sequence[tuple[Any, int]]) -> None:
        """Record that ``node`` sums over ``dim``, which is the given dim of each operand."""

    def average(self, node: fx.Node, dim: Factors) -> None:
        """Record that ``node`` averages over ``dim`` (exact for groups of equal size)."""

    def share(self, node: fx.Node, position: int, dim: Factors) -> None:
        """Record that what ``node`` gives sums to one over a dim (exact for groups of equal size)."""

    def emit(self, argument: Any, dims: Sequence[int] | None = None) -> None:
        """Record that a parameter's dims (all, unless listed) are used as outputs."""

    def join(self, node: fx.Node, operands: Sequence[Any], position: int) -> None:
        """Record that ``node`` lists its operands along a dim: parameters that are joined stay parameters."""

    def stand_for(self, node: fx.Node, source: Any) -> None:
        """Record that the result has the roles of a parameter, as if it were that parameter."""

    def value(self, argument: Any) -> Any:
        """The example value of an argument: ints for symbolic sizes, fake tensors for tensors."""


Infer = Callable[[Context, fx.Node], RuleResult]
Structure = Callable[[Context, fx.Node, DimList], RuleResult]


@dataclass(frozen=True)
class Rule:
    """How an op relates dims.

    ``infer`` gives the result's dims. A rule with ``structure`` only rearranges its first argument
    (or, for ``pointwise``, keeps it): a parameter seen through it is still that parameter.
    """

    infer: Infer | None = None
    structure: Structure | None = None


_RULES: dict[Any, Rule] = {}
# Rules of ops that a library registers only when it first needs them.
_BY_NAME: dict[str, Rule] = {}


def overloads(names: str) -> list[Any]:
    """Ops of the given names, those that this version of torch has; all overloads unless one is named."""
    out: list[Any] = []
    for name in names.split():
        namespace, _, rest = name.partition("::") if "::" in name else ("aten", "", name)
        base, _, overload = rest.partition(".")
        packet = getattr(getattr(torch.ops, namespace), base, None)
        if packet is None:
            continue
        wanted = [overload] if overload else packet.overloads()
        out.extend(getattr(packet, item) for item in wanted if item in packet.overloads())
    return out


def rule(names: str) -> Callable[[Infer], Infer]:
    """Register a function as the rule of ops, named as in ``aten``: ``"mm bmm softmax.int"``."""

    def register(function: Infer) -> Infer:
        for op in overloads(names):
            _RULES[op] = Rule(infer=function)
        return function

    return register


def structure(names: str) -> Callable[[Structure], Structure]:
    """Register a function as the rule of ops that only rearrange their first argument."""

    def register(function: Structure) -> Structure:
        for op in overloads(names):
            _RULES[op] = Rule(structure=function)
        return function

    return register


def set_rule_by_name(name: str, new: Rule) -> None:
    """Put a rule in the table under an op's qualified name, ``"namespace::name"``, registered or not yet."""
    _BY_NAME[name] = new


def set_rule(op: Any, new: Rule) -> None:
    """Put a rule in the table under an op, any callable, or a name for a class of ops."""
    _RULES[op] = new


def frozen_whole(ctx: Context, node: fx.Node, text: str) -> RuleResult:
    """What an op reads and makes, frozen for one reason."""
    for operand in node.all_input_nodes:
        ctx.emit(operand)
        for dim in ctx.dims(operand):
            ctx.freeze(dim, text, node)
    value = ctx.value(node)
    if isinstance(value, (tuple, list)):
        return [ctx.fresh(node, text, output=i) if hasattr(v, "shape") else [] for i, v in enumerate(value)]
    return ctx.fresh(node, text)


def find_rule(op: Any) -> Rule | None:
    """The rule of an op; an in-place op takes its functional twin's."""
    found = _RULES.get(op)
    if found is not None or not isinstance(op, torch._ops.OpOverload):
        return found
    if op._schema.name in _BY_NAME:
        return _BY_NAME[op._schema.name]
    if torch.Tag.pointwise in op.tags:
        return _RULES["pointwise"]
    namespace, name = op._schema.name.split("::")
    if name.endswith("_"):
        packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
        overloads = packet.overloads() if packet is not None else []
        for overload in sorted(overloads, key=lambda o: o != op._overloadname):
            twin = find_rule(getattr(packet, overload))
            if twin is not None:
                return twin
    return None
