"""Why a dim is what it is: its axes, what shares them and through which nodes, and what freezes them."""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.axes.expressions import DimExpr, Join, Leaf, leaves
from mlgraph.errors import AxisError

if TYPE_CHECKING:
    from mlgraph.axes.table import Axis, Slot
    from mlgraph.program import Program

_TARGET = re.compile(r"(.+?)\[(-?\d+)\]")


@dataclass(frozen=True)
class Step:
    """A node on the way between two slots: its name, its op, and its line in the model's source."""

    node: str
    op: str
    source: str


@dataclass(frozen=True)
class Tie:
    """A slot that shares an axis, and the nodes through which it does, in order from the asked-for tensor."""

    slot: Slot
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class AxisExplanation:
    """One axis of a dim, what shares it (matrices before vectors, nearest first), and what node froze it."""

    axis: Axis
    ties: tuple[Tie, ...]
    cause: Step | None


@dataclass(frozen=True)
class DimExplanation:
    """A dim of a tensor in axis names, and its axes."""

    tensor: str
    dim: int
    size: int
    text: str
    axes: tuple[AxisExplanation, ...]


def explain(program: Program, target: str) -> tuple[DimExplanation, ...]:
    """What the dims of a tensor are and why.

    ``target`` is a tensor's name, with or without the number of a dim: ``"lm_head.weight[1]"``. Raises
    AxisError where there is no such tensor, with the nearest name, or no such dim.
    """
    name, wanted = _parse(program, target)
    shape = tuple(program.skeleton().tensors[name].shape)
    if wanted is not None and not -len(shape) <= wanted < len(shape):
        raise AxisError(f"{name} has {len(shape)} dims, so there is no {target}; number them from 0.")
    chosen = range(len(shape)) if wanted is None else [wanted % len(shape)]
    expressions = program.axes.tensor_dims.get(name)
    if expressions is None:
        raise AxisError(f"{name} takes no part in what the model computes, so its dims are on no axis.")
    texts = program.axes.dims(name)
    tracer = _Tracer(program)
    return tuple(
        DimExplanation(name, dim, shape[dim], texts[dim], tuple(tracer.explain(name, expressions[dim])))
        for dim in chosen
    )


def _parse(program: Program, target: str) -> tuple[str, int | None]:
    found = _TARGET.fullmatch(target)
    name, dim = (found.group(1), int(found.group(2))) if found else (target, None)
    name = program.tensors.aliases.get(name, name)
    if name not in program.tensors:
        names = [*program.tensors, *program.tensors.aliases]
        ends = [known for known in names if known.endswith("." + name)]
        near = ends[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}" if near else ""
        raise AxisError(f"There is no parameter {name!r}{hint}.")
    return name, dim


class _Tracer:
    """Walks a program's graph along one axis at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: dict[str, fx.Node] = {node.name: node for node in program.graph.nodes}
        self.axes = {axis.id: axis for axis in program.axes}

    def explain(self, tensor: str, dim: DimExpr) -> Iterator[AxisExplanation]:
        for key in dict.fromkeys(leaf.axis for leaf in leaves(dim) if leaf.axis in self.axes):
            axis = self.axes[key]
            ties = sorted(self._ties(tensor, axis), key=self._rank)
            cause = self.nodes.get(axis.where)
            yield AxisExplanation(axis, tuple(ties), step(cause) if cause is not None else None)

    def _ties(self, tensor: str, axis: Axis) -> Iterator[Tie]:
        paths = self._paths(tensor, axis.id)
        for slot in axis.slots:
            if slot.tensor != tensor and slot.tensor in paths:
                inner = [node for node in paths[slot.tensor] if node.op == "call_function"]
                yield Tie(slot, tuple(step(node) for node in inner))

    def _rank(self, tie: Tie) -> tuple[bool, int]:
        return len(self.program.axes.tensor_dims[tie.slot.tensor]) < 2, len(tie.steps)

    def _paths(self, tensor: str, axis: str) -> dict[str, list[fx.Node]]:
        """A shortest path along the axis from ``tensor`` to every other tensor, by its name."""
        carrying = self._carrying(axis)
        starts = [node for node in carrying if node.op == "get_attr" and node.target == tensor]
        came_from: dict[fx.Node, fx.Node | None] = dict.fromkeys(starts)
        queue = deque(starts)
        paths: dict[str, list[fx.Node]] = {}
        while queue:
            node = queue.popleft()
            if node.op == "get_attr":
                paths.setdefault(str(node.target), _back(node, came_from))
                if node.target != tensor:
                    continue
            for neighbour in (*node.all_input_nodes, *node.users):
                if neighbour in carrying and neighbour not in came_from:
                    came_from[neighbour] = node
                    queue.append(neighbour)
        return paths

    def _carrying(self, axis: str) -> dict[fx.Node, None]:
        """The nodes whose result has the axis, and those that sum over it."""
        table = self.program.axes
        names = [name for name, dims in table.node_dims.items() if _mentions(dims, axis)]
        names += [total.node for total in table.sums if total.axis == axis]
        return dict.fromkeys(self.nodes[name] for name in names if name in self.nodes)


def step(node: fx.Node) -> Step:
    """What is told of a node."""
    op = getattr(node.target, "_opname", None) or getattr(node.target, "__name__", None) or str(node.target)
    return Step(node.name, str(op), str(node.meta.get("source", "")))


def _back(node: fx.Node, came_from: dict[fx.Node, fx.Node | None]) -> list[fx.Node]:
    path, current = [node], came_from[node]
    while current is not None:
        path.append(current)
        current = came_from[current]
    return path[::-1]


def _mentions(dims: Any, axis: str) -> bool:
    if isinstance(dims, Leaf):
        return dims.axis == axis
    if isinstance(dims, Join):
        return _mentions(dims.parts, axis)
    return isinstance(dims, tuple) and any(_mentions(item, axis) for item in dims)
