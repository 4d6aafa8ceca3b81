"""Where a residual branch ends: the tensors in which its output is linear, so that it vanishes with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.graph.ops import argument, has, op_name, positions
from mlgraph.graph.traits import CUTS, MOVES, PASSES, Trait

if TYPE_CHECKING:
    from mlgraph.program import Program

# Linear in their first argument, and no other argument can make something of nothing.
_UNARY = PASSES | MOVES | CUTS | Trait.PADS | Trait.LOOKS_UP | Trait.LINEAR | Trait.QUOTIENT


class Vanishing:
    """What makes values of one block vanish.

    ``inside`` names the block's nodes, ``own`` the parameters that it alone reads: they are preferred where
    several would do. ``strict`` asks for values that scale with what is found, where it is otherwise enough
    that they vanish.
    """

    def __init__(self, program: Program, inside: Collection[str], own: Collection[str], strict: bool) -> None:
        self.parameters = program.tensors.parameters
        self.inside = frozenset(inside)
        self.own = frozenset(own)
        self.strict = strict

    def ends(self, node: fx.Node) -> list[str] | None:
        """The parameters in which a value is linear and vanishes with them all; None where there are none."""
        if node.op == "get_attr":
            return [str(node.target)] if node.target in self.parameters else None
        if node.op != "call_function" or node.name not in self.inside:
            return None
        name = op_name(node)
        if has(node, Trait.ZEROS):
            return []
        if has(node, Trait.ADDS_AT):
            return self._all(node, (0, 3))
        if has(node, Trait.PRODUCT):
            return self._one_factor(node, name)
        if (places := positions(node)) is not None:
            return self._all(node, [place for place in (places.weight, places.bias) if place is not None])
        if has(node, Trait.SUM) and len(node.args) > 1 and isinstance(node.args[1], fx.Node):
            return self._all(node, (0, 1))
        if has(node, Trait.JOINS):
            return self._joined([self.ends(part) for part in node.args[0]])  # type: ignore[union-attr, misc, arg-type]
        if name == "scaled_dot_product_attention":
            return self._all(node, (2,))
        if (has(node, _UNARY) or name == "masked_fill") and _fills_with_zero(node):
            found = self._all(node, (0,))
            if has(node, Trait.QUOTIENT) and found and self._may_divide_by(node.args[1], found):
                return None
            return found
        return None

    def _all(self, node: fx.Node, positions: Sequence[int]) -> list[str] | None:
        given = [node.args[p] for p in positions if p < len(node.args)]
        found = [self.ends(arg) for arg in given if isinstance(arg, fx.Node)]
        return self._joined(found) if found else None

    @staticmethod
    def _joined(found: Sequence[list[str] | None]) -> list[str] | None:
        joined: list[str] = []
        for part in found:
            if part is None:
                return None
            joined += part
        return joined

    def _one_factor(self, node: fx.Node, name: str) -> list[str] | None:
        factors: Any = node.args[1] if name == "einsum" else node.args[:2]
        listed = [factor for factor in factors if isinstance(factor, fx.Node)]
        fitting: list[list[str]] = []
        for factor in reversed(listed):
            found = self.ends(factor)
            others = [other for other in listed if other is not factor]
            if found and not (self.strict and any(self._depends(other, found) for other in others)):
                fitting.append(found)
        return next((found for found in fitting if self.own.issuperset(found)), next(iter(fitting), None))

    def _may_divide_by(self, divisor: object, found: Collection[str]) -> bool:
        """Whether a divisor vanishes with its dividend, as a norm of weights does if nothing bounds it."""
        if not isinstance(divisor, fx.Node) or not self._depends(divisor, found):
            return False
        node = divisor
        while has(node, MOVES) or op_name(node) == "sqrt":
            node = node.args[0]  # type: ignore[assignment]
        bounded = has(node, Trait.BOUNDS) or op_name(node) == "add"
        floor = node.args[1] if bounded and len(node.args) > 1 else 0
        return not (isinstance(floor, (int, float)) and floor > 0)

    def _depends(self, value: fx.Node, tensors: Collection[str]) -> bool:
        return any(node.op == "get_attr" and node.target in tensors for node in self._behind(value))

    def _behind(self, value: fx.Node) -> Iterator[fx.Node]:
        stack, seen = [value], set[fx.Node]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            yield node
            if node.name in self.inside:
                stack.extend(node.all_input_nodes)


def _fills_with_zero(node: fx.Node) -> bool:
    if not has(node, Trait.PADS | Trait.REPLACES):
        return True
    fill = argument(node, "value")
    return fill is None or (isinstance(fill, (int, float)) and fill == 0)
