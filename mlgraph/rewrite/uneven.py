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
from typing import Any, Literal

import torch
from torch import fx

from mlgraph.program import Program
from mlgraph.program.dims import Leaf

Content = Literal["zero", "mean"]

# fmt: off
_PASSED = {
    "dropout", "to", "_to_copy", "view", "reshape", "transpose", "permute", "unsqueeze", "squeeze",
    "contiguous", "clone", "expand", "alias", "drop_path", "slice", "select", "flatten", "unflatten", "roll",
}
# fmt: on
_LINEAR = {"embedding": (0, None), "linear": (1, 2), "conv2d": (1, 2), "addmm": (2, 0), "matmul": (1, None)}


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
        op = _op(node)
        if op in ("layer_norm", "rms_norm"):
            at = 4 if op == "layer_norm" else 3
            gain = _tensor(node, 2)
            if gain is None:
                raise _Unsettled
            plan.gains.add(gain)
            for position in range(2, at):
                own = _tensor(node, position)
                if own is not None:
                    plan.hold(own, "zero")
            plan.epsilons[name] = at
            source: Any = node.args[0]
            _fill(program, axis, source, "mean" if op == "layer_norm" else "zero", plan, seen)
        elif op == "mean":
            _root_mean_square(program, axis, node, plan, seen)
        else:
            raise _Unsettled
    return plan


def _root_mean_square(
    program: Program, axis: str, mean: fx.Node, plan: _Plan, seen: set[tuple[fx.Node, Content]]
) -> None:
    """``x * rsqrt(mean(x ** 2) + epsilon) * gain``, written out."""
    square: Any = mean.args[0]
    added = _only_user(mean, "add")
    root = _only_user(added, "rsqrt")
    scaled = _only_user(root, "mul")
    if _op(square) != "pow" or square.args[1] != 2 or not isinstance(added.args[1], float):
        raise _Unsettled
    gained = scaled
    while _op(after := _only_user(gained)) in _PASSED:
        gained = after
    gains = [str(a.target) for a in after.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    if _op(after) != "mul" or len(gains) != 1:
        raise _Unsettled
    plan.gains.add(gains[0])
    plan.hold(gains[0], "zero")
    plan.epsilons[added.name] = 1
    _fill(program, axis, square.args[0], "zero", plan, seen)


def _fill(
    program: Program,
    axis: str,
    node: fx.Node,
    content: Content,
    plan: _Plan,
    seen: set[tuple[fx.Node, Content]],
) -> None:
    """Have the surplus of a value hold ``content``, by way of the parameters that make it."""
    if (node, content) in seen or axis not in _axes_of(program, node):
        return
    seen.add((node, content))
    op = _op(node)
    carrying = [a for a in node.all_input_nodes if axis in _axes_of(program, a)]
    if node.op == "get_attr":
        plan.hold(str(node.target), content)
    elif op in ("add", "sub", "cat", "stack", *_PASSED):
        if op in ("add", "sub") and len(carrying) < len(node.all_input_nodes) + _scalars(node):
            raise _Unsettled
        for source in carrying if op not in ("cat", "stack") else node.all_input_nodes:
            _fill(program, axis, source, content, plan, seen)
    elif op in ("mul", "div") and len(carrying) == 1 and node.args[0] is carrying[0]:
        _fill(program, axis, carrying[0], content, plan, seen)
    elif op in ("mul", "layer_norm", "rms_norm") and content == "zero":
        scales = [a for a in carrying if a.op == "get_attr"]
        if not scales:
            raise _Unsettled
        for scale in scales:
            plan.hold(str(scale.target), "zero")
    elif op in _LINEAR:
        for position in _LINEAR[op]:
            own = _tensor(node, position) if position is not None else None
            if own is not None:
                plan.hold(own, content)
            elif position == _LINEAR[op][0]:
                raise _Unsettled
    else:
        raise _Unsettled


def _apply(program: Program, axis: str, whole: int, old: int, plan: _Plan) -> Program:
    size = next(a.size for a in program.axes if a.id == axis)
    shrink = whole / size
    values = dict(program.tensors.values_)
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
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        new = graph.node_copy(node, copies.__getitem__)
        new.meta = dict(node.meta)
        copies[node] = new
        if node.name in plan.epsilons:
            at = plan.epsilons[node.name]
            given: list[Any] = [*new.args, *_defaults(node)[len(new.args) : at + 1]]
            if given[at] is None:
                given[at] = torch.finfo(node.meta["val"].dtype).eps
            new.args = (*given[:at], given[at] * shrink, *given[at + 1 :])
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
        else program.axes.node_dims.get(node.name)
    )
    return [d[0].axis for d in dims or () if len(d) == 1 and isinstance(d[0], Leaf)]


def _op(node: Any) -> str:
    return str(getattr(node.target, "_opname", "")).rstrip("_") if isinstance(node, fx.Node) else ""


def _defaults(node: fx.Node) -> list[Any]:
    target: Any = node.target
    return [argument.default_value for argument in target._schema.arguments]


def _tensor(node: fx.Node, position: int) -> str | None:
    given = node.args[position] if position < len(node.args) else None
    return str(given.target) if isinstance(given, fx.Node) and given.op == "get_attr" else None


def _only_user(node: fx.Node, op: str | None = None) -> fx.Node:
    users = list(node.users)
    if len(users) != 1 or (op is not None and _op(users[0]) != op):
        raise _Unsettled
    return users[0]


def _scalars(node: fx.Node) -> int:
    return sum(isinstance(a, (int, float)) and a != 0 for a in node.args[:2])
