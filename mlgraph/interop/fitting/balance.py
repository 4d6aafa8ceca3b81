"""Moving scalar factors from a graph into its parameters, where that changes nothing.

A class may fix a factor (an embedding scaled by the square root of the width) that a program has with another
value. Give every parameter p an unknown factor exp(s_p): a product adds exponents, a sum needs equal ones, a
norm or a softmax needs zero before it, inputs and outputs have zero. That is a linear system; its solution
says how to rescale the parameters so that the class computes what the program computes, and that there is
none is a proof that these ops can't absorb the factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.errors import MlgraphError
from mlgraph.graph.ops import has, op_name, positions
from mlgraph.graph.traits import CUTS, MOVES, PASSES, Trait
from mlgraph.interop.fitting.advice import OR_AS_CLASS
from mlgraph.interop.weights import Rescale

if TYPE_CHECKING:
    from mlgraph.interop.fitting.align import FactorGap
    from mlgraph.program import Program


class FoldError(MlgraphError):
    """A factor can't be moved into the parameters."""


def fold(program: Program, factors: Iterable[FactorGap]) -> dict[str, Rescale]:
    """How to rescale parameters so that factors at some nodes may change and the function not.

    A factor's ``ratio`` is what its node's value is newly multiplied by. Exact but for rounding.

    Raises:
        FoldError: naming the node whose op stands in the way.
    """
    return _Balance(program, list(factors)).solve()


@dataclass(frozen=True)
class _Form:
    """A sum of unknown exponents plus a known one."""

    terms: tuple[tuple[str, float], ...] = ()
    known: float = 0.0

    def __add__(self, other: _Form) -> _Form:
        return self.plus(other, 1.0)

    def __sub__(self, other: _Form) -> _Form:
        return self.plus(other, -1.0)

    def plus(self, other: _Form, times: float) -> _Form:
        if not other.terms:
            return _Form(self.terms, self.known + times * other.known)
        terms = dict(self.terms)
        for name, value in other.terms:
            terms[name] = terms.get(name, 0.0) + times * value
        kept = tuple((name, value) for name, value in terms.items() if abs(value) > 1e-12)
        return _Form(kept, self.known + times * other.known)


_ZERO = _Form()
# Through these the first operand's factor passes to the result.
_KEEPS = PASSES | MOVES | CUTS | Trait.PADS | Trait.LOOKS_UP | Trait.LINEAR | Trait.HOMOGENEOUS


class _Balance:
    def __init__(self, program: Program, factors: list[FactorGap]) -> None:
        self.program = program
        self.known: dict[str, float] = {}
        for factor in factors:
            self.known[factor.node] = self.known.get(factor.node, 0.0) + math.log(factor.ratio)
        self.factors = factors
        self.solved: dict[str, _Form] = {}
        self.exponents: dict[fx.Node, _Form] = {}
        self.shifts: dict[str, float] = {}

    def solve(self) -> dict[str, Rescale]:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.exponents[node] = _ZERO
            elif node.op == "get_attr":
                self.exponents[node] = self.attribute(node)
            elif node.op == "call_function":
                self.exponents[node] = self.call(node)
            else:
                for result in _nodes(node.args):
                    self.require(self.of(result), result)
        rescales = {}
        for name in self.program.tensors.parameters:
            exponent = self.substitute(_Form(((name, 1.0),))).known
            if abs(exponent) > 1e-12:
                rescales[name] = Rescale(math.exp(exponent), self.shifts.get(name, 0.0))
        return rescales

    def attribute(self, node: fx.Node) -> _Form:
        name = self.program.tensors.aliases.get(str(node.target), str(node.target))
        if name in self.program.tensors.parameters and self.program.tensors[name].is_floating_point():
            return _Form(((name, 1.0),))
        return _Form((), self.known.get(node.name, 0.0))

    def call(self, node: fx.Node) -> _Form:
        result = self.rule(node)
        return _Form(result.terms, result.known + self.known.get(node.name, 0.0))

    def rule(self, node: fx.Node) -> _Form:
        own = _RULES.get(op_name(node))
        if own is not None:
            return own(self, node)
        for traits, rule in _RULES_BY_TRAIT:
            if has(node, traits):
                return rule(self, node)
        return self.affine(node) if positions(node) is not None else self.opaque(node)

    def opaque(self, node: fx.Node) -> _Form:
        """An op that lets no factor through."""
        for operand in node.all_input_nodes:
            self.require(self.of(operand), node)
        return _ZERO

    def product(self, node: fx.Node) -> _Form:
        total = _ZERO
        for operand in _list(node.args[1]) if op_name(node) == "einsum" else node.args[:2]:
            total = total + self.of(operand)
        return total

    def power(self, node: fx.Node) -> _Form:
        if isinstance(node.args[1], int | float):
            return _ZERO.plus(self.of(node.args[0]), float(node.args[1]))
        return self.opaque(node)

    def attention(self, node: fx.Node) -> _Form:
        query, key, value = (self.of(node.args[at]) for at in range(3))
        known = _Form((), self.known.get(node.name, 0.0))
        self.require(query + key + known, node)
        # the factor belongs to the scores and not to what comes out
        return value - known

    def affine(self, node: fx.Node) -> _Form:
        operand, weight, bias = self.placed(node)
        result = self.of(operand) + self.of(weight)
        if isinstance(bias, fx.Node):
            self.require(result - self.of(bias), node)
        return result

    def norm(self, node: fx.Node) -> _Form:
        operand, gain, bias = self.placed(node)
        # not even a norm lets a factor through: its epsilon is added to the variance
        self.require(self.of(operand), node)
        result = self.of(gain)
        if isinstance(bias, fx.Node):
            self.require(result - self.of(bias), node)
        return result

    def placed(self, node: fx.Node) -> list[Any]:
        """What an op is given for its activation, weight and bias."""
        at = positions(node)
        assert at is not None
        places = (at.input, at.weight, at.bias)
        return [node.args[p] if p is not None and p < len(node.args) else None for p in places]

    def shifted(self, node: fx.Node) -> _Form | None:
        """``w + c`` for a parameter used nowhere else: as good as a parameter itself."""
        parameter, constant = node.args[0], node.args[1]
        if not isinstance(parameter, fx.Node):
            parameter, constant = constant, parameter
        if not isinstance(parameter, fx.Node) or not isinstance(constant, int | float) or not constant:
            return None
        if op_name(node) != "add" or node.kwargs:
            return None
        while has(parameter, Trait.CASTS):
            if len(parameter.users) != 1 or not isinstance(parameter.args[0], fx.Node):
                return None
            parameter = parameter.args[0]
        name = str(parameter.target)
        if parameter.op != "get_attr" or name not in self.program.tensors.parameters:
            return None
        if len(parameter.users) != 1:
            return None
        self.shifts[name] = float(constant)
        return self.exponents[parameter]

    def equal(self, node: fx.Node, operands: Iterable[Any]) -> _Form:
        operands = list(operands)
        zeros = [_is_zero(operand) for operand in operands]
        forms = [self.of(operand) for operand, zero in zip(operands, zeros, strict=True) if not zero]
        if not forms:
            return _ZERO
        for other in forms[1:]:
            self.require(forms[0] - other, node)
        return forms[0]

    def of(self, value: Any) -> _Form:
        return self.exponents.get(value, _ZERO) if isinstance(value, fx.Node) else _ZERO

    def require(self, form: _Form, node: fx.Node) -> None:
        """Make an exponent zero by solving for one of its unknowns."""
        form = self.substitute(form)
        if not form.terms:
            if abs(form.known) > 1e-9:
                named = ", ".join(map(str, self.factors[:3]))
                raise FoldError(
                    f"The class has {named}, which node {node.name} ({node.target}) keeps from being folded "
                    f"into a parameter; {OR_AS_CLASS}."
                )
            return
        name, value = form.terms[-1]
        rest = _Form(tuple(term for term in form.terms if term[0] != name), form.known)
        solution = _ZERO.plus(rest, -1 / value)
        self.solved = {other: _replace(known, name, solution) for other, known in self.solved.items()} | {
            name: solution
        }

    def substitute(self, form: _Form) -> _Form:
        result = _Form((), form.known)
        for name, value in form.terms:
            result = result.plus(self.solved.get(name, _Form(((name, 1.0),))), value)
        return result


def _replace(form: _Form, name: str, solution: _Form) -> _Form:
    value = dict(form.terms).get(name)
    if value is None:
        return form
    rest = _Form(tuple(term for term in form.terms if term[0] != name), form.known)
    return rest.plus(solution, value)


def _is_zero(value: Any) -> bool:
    # masks fill with minus infinity, which like zero no positive factor changes
    return isinstance(value, int | float) and (value == 0 or math.isinf(value))


def _nodes(args: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(args, lambda node: found.append(node))
    return found


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


_Rule = Callable[[_Balance, fx.Node], _Form]
_RULES: dict[str, _Rule] = {
    "where": lambda b, node: b.equal(node, node.args[1:3]),
    "masked_fill": lambda b, node: b.equal(node, (node.args[0], node.args[2])),
    "embedding": lambda b, node: b.of(node.args[0]),
    "rsub": lambda b, node: b.equal(node, node.args[:2]),
    "pow": _Balance.power,
    "scaled_dot_product_attention": _Balance.attention,
}
_RULES_BY_TRAIT: tuple[tuple[Trait, _Rule], ...] = (
    (_KEEPS, lambda b, node: b.of(node.args[0])),
    (Trait.PRODUCT, _Balance.product),
    (Trait.QUOTIENT, lambda b, node: b.of(node.args[0]) - b.of(node.args[1])),
    (Trait.SUM, lambda b, node: b.shifted(node) or b.equal(node, node.args[:2])),
    (Trait.JOINS, lambda b, node: b.equal(node, _list(node.args[0]))),
    (Trait.NORM, _Balance.norm),
)
