"""Growth to widths that the old ones do not divide, kept exact under norms.

Where an axis grows from d to D indices and d does not divide D, the D mod d surplus indices cannot be
copies: means over the axis would weigh some of the old indices more. Norms stay exact if the surplus holds
the mean of the old indices where a layer norm reads it (the mean stays, the variance shrinks by k·d/D for k
whole copies), and zeros where a root mean square does; the norm's own gain makes up for the shrinking and is
zero on the surplus, its epsilon shrinks alike (LEMON, arXiv 2310.07999, average and zero expansion of norms).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx

from mlgraph.graph.copying import copy_graph
from mlgraph.graph.ops import arguments, has, op_name, positions
from mlgraph.graph.traits import MOVES, PASSES, Trait

if TYPE_CHECKING:
    from mlgraph.program import Program

Content = Literal["zero", "mean"]


class _Unsettled(Exception):
    """The graph asks for something else than zeros or means."""


@dataclass
class _Plan:
    """What the surplus of every tensor holds, which gains grow, and which arguments are multiplied."""

    contents: dict[str, Content] = field(default_factory=dict)
    gains: set[str] = field(default_factory=set)
    epsilons: dict[str, int] = field(default_factory=dict)

    def hold(self, tensor: str, content: Content) -> None:
        if self.contents.setdefault(tensor, content) != content:
            raise _Unsettled


def settle_surplus(
    program: Program, whole: Mapping[str, int], old: Mapping[str, int]
) -> tuple[Program, tuple[str, ...]]:
    """Make the norms over grown axes exact.

    Args:
        program: grown, its surplus indices copies that no slot contracts.
        whole: per axis id, the number of indices in whole copies (k·d); the surplus comes after them.
        old: per axis id, its size before growth (d).

    Returns:
        The program, and the ids of the axes that were settled. An axis is left as it is where something else
        than pre-norm residual streams reads it: a norm of a norm's output, a mean that is no norm's.
    """
    settled = []
    for axis, kept in whole.items():
        try:
            plan = _plan(program, axis)
        except _Unsettled:
            continue
        program = _apply(program, axis, kept, old[axis], plan)
        settled.append(axis)
    return program, tuple(settled)


def _plan(program: Program, axis: str) -> _Plan:
    nodes = {node.name: node for node in program.graph.nodes}
    plan = _Plan()
    seen: set[tuple[fx.Node, Content]] = set()
    for name in dict.fromkeys(node for averaged, node in program.axes.averages if averaged == axis):
        node = nodes[name]
        if has(node, Trait.NORM):
            _norm(program, axis, node, plan, seen)
        elif op_name(node) == "mean":
            _root_mean_square(program, axis, node, plan, seen)
        else:
            raise _Unsettled
    return plan


def _norm(
    program: Program, axis: str, node: fx.Node, plan: _Plan, seen: set[tuple[fx.Node, Content]]
) -> None:
    at = positions(node)
    gain = _tensor(node, at.weight) if at is not None else None
    # a group norm's means are those of its groups, not the axis's
    if at is None or at.epsilon is None or gain is None or op_name(node) == "group_norm":
        raise _Unsettled
    plan.gains.add(gain)
    for position in (at.weight, at.bias):
        own = _tensor(node, position)
        if own is not None:
            plan.hold(own, "zero")
    plan.epsilons[node.name] = at.epsilon
    # a norm that takes the mean away has a bias
    _fill(program, axis, node.args[at.input], "zero" if at.bias is None else "mean", plan, seen)


def _root_mean_square(
    program: Program, axis: str, mean: fx.Node, plan: _Plan, seen: set[tuple[fx.Node, Content]]
) -> None:
    """``x * rsqrt(mean(x ** 2) + epsilon) * gain``, written out."""
    square: Any = mean.args[0]
    added = _only_user(mean, "add")
    root = _only_user(added, "rsqrt")
    scaled = _only_user(root, "mul")
    if (
        not isinstance(square, fx.Node)
        or op_name(square) != "pow"
        or square.args[1] != 2
        or not isinstance(added.args[1], float)
    ):
        raise _Unsettled
    gained = scaled
    while has(after := _only_user(gained), PASSES | MOVES):
        gained = after
    gains = [str(a.target) for a in after.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    if op_name(after) != "mul" or len(gains) != 1:
        raise _Unsettled
    plan.gains.add(gains[0])
    plan.hold(gains[0], "zero")
    plan.epsilons[added.name] = 1
    _fill(program, axis, square.args[0], "zero", plan, seen)


def _fill(
    program: Program,
    axis: str,
    node: Any,
    content: Content,
    plan: _Plan,
    seen: set[tuple[fx.Node, Content]],
) -> None:
    """Have the surplus of a value hold ``content``, by way of the parameters that make it."""
    if (node, content) in seen or axis not in _axes_of(program, node):
        return
    seen.add((node, content))
    if node.op == "get_attr":
        plan.hold(str(node.target), content)
        return
    for source in _sources(program, axis, node, content, plan):
        _fill(program, axis, source, content, plan, seen)


def _sources(program: Program, axis: str, node: fx.Node, content: Content, plan: _Plan) -> list[fx.Node]:
    """The operands whose surplus must hold ``content`` for the result's to do so."""
    carrying = [a for a in node.all_input_nodes if axis in _axes_of(program, a)]
    if has(node, Trait.SUM):
        if len(carrying) < len(node.all_input_nodes) + _scalars(node):
            raise _Unsettled
        return carrying
    if has(node, Trait.JOINS):
        return node.all_input_nodes
    if has(node, PASSES | MOVES):
        return carrying
    if has(node, Trait.SCALING) and len(carrying) == 1 and node.args[0] is carrying[0]:
        return carrying
    if has(node, Trait.NORM) or op_name(node) == "mul":
        scales = [a for a in carrying if a.op == "get_attr"]
        if content != "zero" or not scales:
            raise _Unsettled
        return scales
    _hold_own(node, content, plan)
    return []


def _hold_own(node: fx.Node, content: Content, plan: _Plan) -> None:
    """Have the weight and bias that make a value hold ``content`` in its surplus."""
    at = positions(node)
    weight = _tensor(node, at.weight) if at is not None else None
    if at is None or weight is None:
        raise _Unsettled
    plan.hold(weight, content)
    bias = _tensor(node, at.bias)
    if bias is not None:
        plan.hold(bias, content)


def _apply(program: Program, axis: str, whole: int, old: int, plan: _Plan) -> Program:
    size = next(a.size for a in program.axes if a.id == axis)
    shrink = whole / size
    values = dict(program.tensors)
    for name in dict.fromkeys((*plan.contents, *plan.gains)):
        tensor = program.tensors[name].detach().clone()
        if name in plan.gains:
            tensor *= math.sqrt(shrink)
        emitting = [
            slot.dim
            for a in program.axes
            if a.id == axis
            for slot in a.slots
            if slot.tensor == name and slot.role != "contracts"
        ]
        for dim in emitting:
            _hold(tensor, dim, whole, old, plan.contents[name])
        values[name] = tensor

    def shrunk(node: fx.Node, new: fx.Node) -> None:
        if node.name in plan.epsilons:
            at = plan.epsilons[node.name]
            given: list[Any] = arguments(new)[: max(len(new.args), at + 1)]
            if given[at] is None:
                given[at] = torch.finfo(node.meta["val"].dtype).eps
            new.args = (*given[:at], given[at] * shrink, *given[at + 1 :])

    graph = copy_graph(program.graph, shrunk)
    return program.replace(graph=graph, tensors=program.tensors.replace(values))


def _hold(tensor: torch.Tensor, dim: int, whole: int, old: int, content: Content) -> None:
    surplus = tensor.narrow(dim, whole, tensor.shape[dim] - whole)
    if content == "zero":
        surplus.zero_()
    else:
        surplus.copy_(tensor.narrow(dim, 0, old).mean(dim, keepdim=True).expand_as(surplus))


def _axes_of(program: Program, node: fx.Node) -> Sequence[str]:
    """The axes that are whole dims of a value."""
    dims = (
        program.axes.tensor_dims.get(str(node.target))
        if node.op == "get_attr"
        else program.axes.result_dims(node.name)
    )
    return [dim.only.axis for dim in dims or () if dim.only]


def _tensor(node: fx.Node, position: int | None) -> str | None:
    given = node.args[position] if position is not None and position < len(node.args) else None
    return str(given.target) if isinstance(given, fx.Node) and given.op == "get_attr" else None


def _only_user(node: fx.Node, op: str | None = None) -> fx.Node:
    users = list(node.users)
    if len(users) != 1 or (op is not None and op_name(users[0]) != op):
        raise _Unsettled
    return users[0]


def _scalars(node: fx.Node) -> int:
    return sum(isinstance(a, (int, float)) and a != 0 for a in node.args[:2])
