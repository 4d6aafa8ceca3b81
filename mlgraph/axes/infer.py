"""Runs the rules over a program's graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from mlgraph.axes import factors
from mlgraph.axes.decompose import carries_sizes, decompose
from mlgraph.axes.factors import Factors, Misaligned
from mlgraph.axes.node_dims import every_dim, fits, flat, holds_tensor
from mlgraph.axes.rules import find_rule
from mlgraph.axes.views import TensorView, Views
from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait
from mlgraph.program.axis_table import Reason, ReasonKind

if TYPE_CHECKING:
    from mlgraph.axes.rules.registry import DimList, Rule
    from mlgraph.program import Program


@dataclass(frozen=True)
class Contraction:
    """A sum over ``dim`` at ``node``; ``carrier`` is the parameter summed against, if there is one.

    ``operands`` lists (node, position of the dim), the carrier last. ``carried`` is the dim in the
    carrier's own private factors, whose roles tell whether the carrier is used in this role only.
    """

    node: fx.Node
    dim: Factors
    operands: tuple[tuple[fx.Node, int], ...]
    carrier: str | None
    carried: Factors
    repairable: bool = True


@dataclass
class Inference(Views):
    """The state of one run; implements the ``Context`` that rules see."""

    program: Program
    values: dict[fx.Node, Any] = field(default_factory=dict)
    own: dict[str, DimList] = field(default_factory=dict)
    main: dict[str, DimList] = field(default_factory=dict)
    sources: dict[fx.Node, frozenset[str] | None] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    averages: list[tuple[fx.Node, Factors]] = field(default_factory=list)
    shares: list[tuple[fx.Node, int, Factors]] = field(default_factory=list)
    outputs: list[Factors] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    inside: fx.Node | None = None

    def run(self) -> Inference:
        for node in self.program.graph.nodes:
            self.visit(node)
        return self

    # What rules call.

    def dims(self, argument: Any) -> DimList:
        found = self.values.get(argument) if isinstance(argument, fx.Node) else None
        return list(found) if found else []

    def fresh(
        self, node: fx.Node, frozen: str = "", output: int | None = None, kind: ReasonKind = "op"
    ) -> DimList:
        value = self.value(node) if output is None else self.value(node)[output]
        dims = [factors.fresh(size if isinstance(size, int) else -1) for size in value.shape]
        if frozen:
            for dim in dims:
                self.freeze(dim, frozen, node, kind)
        return dims

    def unify(self, a: Factors, b: Factors, node: fx.Node) -> None:
        try:
            if factors.size_of(a) != factors.size_of(b):
                raise Misaligned
            factors.unify(a, b)
        except Misaligned:
            text = "its indices do not align with those it meets"
            self.freeze(a, text, node, "unaligned")
            self.freeze(b, text, node, "unaligned")

    def freeze(self, dim: Factors, text: str, node: fx.Node, kind: ReasonKind = "op") -> None:
        factors.freeze(dim, Reason(kind, text, self._named(node)))

    def block(self, dim: Factors, text: str, node: fx.Node, kind: ReasonKind = "inexact") -> None:
        factors.block(dim, Reason(kind, text, self._named(node)))

    def average(self, node: fx.Node, dim: Factors) -> None:
        self.averages.append((self.inside or node, dim))
        factors.hint(dim, "normalised")

    def share(self, node: fx.Node, position: int, dim: Factors) -> None:
        repairable = self.inside is None and all(user.op != "output" for user in node.users)
        self.block(dim, "a softmax normalises over it", node, "shared out" if repairable else "inexact")
        if repairable:
            self.shares.append((node, position, dim))

    def contract(self, node: fx.Node, dim: Factors, operands: Sequence[tuple[Any, int]]) -> None:
        if factors.size_of(dim) == 1:
            return
        joined = [(a, p) for a, p in operands if a in self.joins]
        if len(joined) == 1 and len(operands) > 1 and not any(a in self.views for a, _ in operands):
            self._contract_joined(node, dim, operands, *joined[0])
            return
        carriers = [i for i, operand in enumerate(operands) if self._carries(*operand, dim)]
        carrier: str | None = None
        carried: Factors = ()
        divisible = True
        if carriers and len(operands) > 1:
            chosen = min(carriers, key=lambda i: (self.views[operands[i][0]].gathered, -i))
            argument, position = operands[chosen]
            carrier, carried = self.views[argument].tensor, self.views[argument].dims[position]
            factors.add_role(carried, "contracts")
            operands = [*operands[:chosen], *operands[chosen + 1 :], operands[chosen]]
            others = list(operands[:-1])
        else:
            others = list(operands)
            divisible = all(
                self.value(a).is_floating_point() or self.value(a).is_complex() for a, _ in operands
            )
            text = "activations are summed over it with no parameter on one side"
            self.block(dim, text, node, "summed" if divisible else "inexact")
        for other, index in others:
            self.emit(other, [index])
        repairable = self.inside is None and divisible
        self.contractions.append(
            Contraction(self.inside or node, dim, tuple(operands), carrier, carried, repairable)
        )

    def _carries(self, argument: Any, position: int, dim: Factors) -> bool:
        """Whether a dim is a parameter's own, so that a sum over it can be divided in the parameter."""
        view = self.views.get(argument)
        if view is None or factors.size_of(view.dims[position]) != factors.size_of(dim):
            return False
        own = {id(leaf) for dim in self.own[view.tensor] for leaf in factors.leaves(dim)}
        return all(id(leaf) in own or leaf.frozen is not None for leaf in factors.leaves(view.dims[position]))

    def _contract_joined(
        self,
        node: fx.Node,
        dim: Factors,
        operands: Sequence[tuple[Any, int]],
        argument: fx.Node,
        position: int,
    ) -> None:
        """A sum against tensors joined to one: over each one's own part of the dim, or over all of it."""
        joined = self.joins[argument]
        sizes = [factors.size_of(part.dims[position]) for part in joined.parts]
        if position != joined.position:
            pieces = [dim] * len(sizes)
        else:
            try:
                pieces = factors.split(dim, sizes)
            except Misaligned:
                self.freeze(dim, "its indices do not align with those it meets", node, "unaligned")
                pieces = [dim] * len(sizes)
        others = [(a, p) for a, p in operands if a is not argument]
        for other, index in others:
            self.emit(other, [index])
        for part, piece in zip(joined.parts, pieces, strict=True):
            carried = part.dims[position]
            factors.add_role(carried, "contracts")
            where = (*others, (argument, position))
            self.contractions.append(
                Contraction(self.inside or node, piece, where, part.tensor, carried, self.inside is None)
            )

    def _named(self, node: fx.Node) -> str:
        return (self.inside or node).name

    # Running.

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "get_attr":
            self._tensor(node)
        elif node.op == "output":
            for leaf in flat(node.args[0]):
                self.emit(leaf)
                self.outputs.extend(self.dims(leaf))
        else:
            self._call(node)

    def _placeholder(self, node: fx.Node) -> None:
        value = self.value(node)
        self.sources[node] = None
        if isinstance(value, torch.Tensor):
            self.values[node] = [factors.fresh(int(size)) for size in value.shape]
            for dim in self.values[node]:
                self.freeze(dim, f"it is a dim of the input {node.name}", node, "input")

    def _tensor(self, node: fx.Node) -> None:
        name = str(node.target)
        tensor = self.program.tensors[name]
        if name not in self.main:
            self.main[name] = [factors.fresh(size) for size in tensor.shape]
            self.own[name] = [factors.fresh(size) for size in tensor.shape]
            if not (tensor.is_floating_point() or tensor.is_complex()):
                for dim in self.main[name]:
                    self.freeze(dim, f"the values of {name} are integers", node, "constant")
        self.values[node] = list(self.main[name])
        self.views[node] = TensorView(name, list(self.own[name]))
        self.sources[node] = frozenset({name})

    def _call(self, node: fx.Node) -> None:
        inputs = [self.sources.get(n, frozenset()) for n in node.all_input_nodes]
        self.sources[node] = (
            None if None in inputs else frozenset().union(*(s for s in inputs if s is not None))
        )
        value = self.value(node)
        if getattr(node.target, "__name__", "") == "getitem" and isinstance(
            self.value(node.args[0]), (tuple, list)
        ):
            self._getitem(node)
            return
        if not holds_tensor(value):
            return
        rule = find_rule(node.target)
        result: Any = None
        failure = ""
        if rule is not None:
            try:
                result = self._apply(rule, node)
            except GuardOnDataDependentSymNode:
                failure = f"its size depends on data in {node.target}"
            except Exception as error:  # a rule met a form of its op that it does not know
                failure = f"the rule of {node.target} does not cover this use of it ({_named_error(error)})"
        if failure:
            self.views.pop(node, None)
            self.joins.pop(node, None)
            result = self._freeze_around(node, failure)
        elif result is None or not fits(result, value):
            result = self._without_rule(node)
        if self.inside is not None:
            self._freeze_what_is_made(node, result)
        self.values[node] = result
        if has(node, Trait.ACTIVATION):
            for dim in result:
                factors.hint(dim, "activated")

    def _apply(self, rule: Rule, node: fx.Node) -> Any:
        linear = self._linear_operand(node)
        if linear is not None:
            view = self.views[linear]
            self.views[node] = TensorView(view.tensor, list(view.dims), view.gathered)
            for operand in node.all_input_nodes:
                if operand is not linear:
                    self.emit(operand)
            return list(self.dims(linear))
        if rule.structure is not None:
            result = rule.structure(self, node, self.dims(node.args[0]))
            self.follow(node, rule.structure)
            return result
        return rule.infer(self, node) if rule.infer is not None else None

    def _getitem(self, node: fx.Node) -> None:
        source: Any = node.args[0]
        index: Any = node.args[1]
        dims = self.values.get(source)
        if dims is not None and isinstance(self.value(node), torch.Tensor):
            self.values[node] = dims[index]
            view = self.views.get(source)  # type: ignore[arg-type]
            if view is not None:
                self.views[node] = TensorView(view.tensor, view.dims[index], view.gathered)

    def _linear_operand(self, node: fx.Node) -> fx.Node | None:
        """The parameter that an elementwise op scales by something that does not depend on it."""
        if not has(node, Trait.SCALING):
            return None
        candidates = [a for a in node.args[:2] if isinstance(a, fx.Node) and a in self.views]
        shape = self.value(node).shape
        for candidate in candidates:
            others = [n for n in node.all_input_nodes if n is not candidate]
            scales = all(self.sources.get(n) is not None for n in others)
            apart = all(self.views[candidate].tensor not in (self.sources.get(n) or ()) for n in others)
            if has(node, Trait.QUOTIENT) and candidate is not node.args[0]:
                continue
            if scales and apart and self.value(candidate).shape == shape and self.value(candidate).dim() > 1:
                for other in others:
                    self._unify_broadcast(other, candidate, node)
                return candidate
        return None

    def _unify_broadcast(self, value: fx.Node, whole: fx.Node, node: fx.Node) -> None:
        """Unify the dims of a value that is broadcast over another's with them."""
        for a, b in zip(reversed(self.dims(value)), reversed(self.dims(whole)), strict=False):
            if factors.size_of(a) > 1:
                self.unify(a, b, node)

    def _without_rule(self, node: fx.Node) -> Any:
        name = str(node.target)
        if carries_sizes(node):
            return self._freeze_around(node, f"there is no rule for {name}, which is given sizes")
        body = decompose(node) if self.inside is None else None
        if body is not None:
            result = self._enter(node, body)
            if fits(result, self.value(node)):
                return result
        return self._freeze_around(node, f"there is no rule for {name}")

    def _freeze_around(self, node: fx.Node, text: str) -> Any:
        """Freeze what an op reads and makes, for want of a rule that covers it."""
        self.unknown.setdefault(self._named(node), str(node.target))
        for operand in node.all_input_nodes:
            self.emit(operand)
            for dim in every_dim(self.values.get(operand) or []):
                self.freeze(dim, text, node, "no rule")
        value = self.value(node)
        if isinstance(value, (tuple, list)):
            return [
                self.fresh(node, text, i, "no rule") if isinstance(v, torch.Tensor) else []
                for i, v in enumerate(value)
            ]
        return self.fresh(node, text, kind="no rule")

    def _freeze_what_is_made(self, node: fx.Node, result: Any) -> None:
        """Freeze dims that a decomposition makes at a size of its own: nothing ties them to the op's."""
        read = {
            id(leaf)
            for operand in node.all_input_nodes
            for dim in every_dim(self.values.get(operand) or [])
            for leaf in factors.leaves(dim)
        }
        for dim in every_dim(result):
            for leaf in factors.leaves(dim):
                if id(leaf) not in read:
                    self.freeze((leaf,), f"its size is made inside {self.inside.target}", node, "no rule")  # type: ignore[union-attr]

    def _enter(self, node: fx.Node, body: fx.GraphModule) -> Any:
        """Run the rules on an op's decomposition."""
        self.inside = node
        operands = iter([n for n in node.all_input_nodes if isinstance(self.value(n), torch.Tensor)])
        result: Any = []
        for inner in body.graph.nodes:
            if inner.op == "placeholder":
                outer = next(operands)
                self.values[inner] = self.values.get(outer)
                self.sources[inner] = self.sources.get(outer)
                if outer in self.views:
                    self.views[inner] = self.views[outer]
            elif inner.op == "get_attr":
                self.values[inner] = self.fresh(inner)
                self.sources[inner] = frozenset()
            elif inner.op == "output":
                leaves = inner.args[0]
                many = isinstance(leaves, (tuple, list))
                result = [self.dims(leaf) for leaf in leaves] if many else self.dims(leaves)
            else:
                self._call(inner)
        self.inside = None
        return result


def _named_error(error: Exception) -> str:
    text = " ".join(str(error).split())[:80]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
