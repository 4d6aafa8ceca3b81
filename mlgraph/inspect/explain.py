"""Why a dim is what it is: its axes, what shares them and through which nodes, and what freezes them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from mlgraph.errors import AxisError, suggestion
from mlgraph.graph.ops import op_label
from mlgraph.program import require_program
from mlgraph.program.dims import Dim, Join
from mlgraph.program.families import judged

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis, Slot

_Origins = dict[fx.Node, fx.Node | None]
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
    """One axis of a dim, what shares it (matrices before vectors, nearest first), and what froze it.

    ``cause`` is the node that froze it or because of which it is kept, ``chain`` the nodes from the tensor
    to it, the last one it itself. ``asked`` is the name by which the user froze it, if so. ``remarks`` tell
    of what else lies on it: constants, halves that are rotated against each other.
    """

    axis: Axis
    ties: tuple[Tie, ...]
    cause: Step | None
    chain: tuple[Step, ...] = ()
    asked: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def fate(self) -> tuple[str, str]:
        """``"frozen"``, ``"kept"`` or ``"coarsenable"``, and why."""
        if self.axis.frozen:
            return "frozen", str(self.axis.frozen)
        if self.asked:
            return "kept", f"you asked for it by freezing {self.asked}"
        return ("kept", str(self.axis.kept)) if self.axis.kept else ("coarsenable", "")


@dataclass(frozen=True)
class DimExplanation:
    """A dim of a tensor in axis names, and its axes."""

    tensor: str
    dim: int
    size: int
    text: str
    axes: tuple[AxisExplanation, ...]


def explain(program: Program, target: str, freeze: Iterable[str] = ()) -> tuple[DimExplanation, ...]:
    """What the dims of a tensor are and why.

    ``target`` is a tensor's name, with or without the number of a dim: ``"lm_head.weight[1]"``. ``freeze``
    names axes, as for ``coalesce``, that are to stay. Raises AxisError where there is no such tensor, with
    the nearest name, or no such dim or axis.
    """
    require_program(program)
    name, wanted = _parse(program, target)
    shape = tuple(program.skeleton().tensors[name].shape)
    if wanted is not None and not -len(shape) <= wanted < len(shape):
        raise AxisError(f"{name} has {len(shape)} dims, so there is no {target}; number them from 0.")
    chosen = range(len(shape)) if wanted is None else [wanted % len(shape)]
    expressions = program.axes.tensor_dims.get(name)
    if expressions is None:
        raise AxisError(f"{name} takes no part in what the model computes, so its dims are on no axis.")
    texts = program.axes.dims(name)
    tracer = _Tracer(program, {axis.id: given for given in freeze for axis in program.axes.select(given)})
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
        hint = (
            f"did you mean {ends[0]!r}?" if ends else suggestion(name, names, "the command axes lists them.")
        )
        raise AxisError(f"There is no parameter {name!r}; {hint}")
    return name, dim


class _Tracer:
    """Walks a program's graph along one axis at a time."""

    def __init__(self, program: Program, asked: Mapping[str, str]) -> None:
        self.program = program
        self.asked = asked
        self.nodes: dict[str, fx.Node] = {node.name: node for node in program.graph.nodes}
        self.axes = {axis.id: axis for axis in judged(program)}

    def explain(self, tensor: str, dim: Dim) -> Iterator[AxisExplanation]:
        for key in dict.fromkeys(leaf.axis for leaf in dim.leaves() if leaf.axis in self.axes):
            axis = self.axes[key]
            carrying = self._carrying(axis.id)
            came_from = self._search(tensor, carrying)
            ties = sorted(self._ties(tensor, axis, came_from), key=self._rank)
            cause = self.nodes.get(axis.where)
            chain = self._chain(cause, came_from) if cause is not None else ()
            yield AxisExplanation(
                axis,
                tuple(ties),
                step(cause) if cause is not None else None,
                chain,
                self.asked.get(key),
                tuple(self._remarks(dim, axis, carrying)),
            )

    def _ties(self, tensor: str, axis: Axis, came_from: _Origins) -> Iterator[Tie]:
        paths: dict[str, list[fx.Node]] = {}
        for node in came_from:
            if node.op == "get_attr":
                paths.setdefault(str(node.target), _back(node, came_from))
        told: set[tuple[str, int]] = set()
        for slot in axis.slots:
            place = (slot.tensor, slot.dim)
            if slot.tensor != tensor and slot.tensor in paths and place not in told:
                told.add(place)
                inner = [node for node in paths[slot.tensor] if node.op == "call_function"]
                yield Tie(slot, tuple(step(node) for node in inner))

    def _chain(self, cause: fx.Node, came_from: _Origins) -> tuple[Step, ...]:
        """The steps from the tensor to the node at which something was decided about the axis."""
        ends = [node for node in (cause, *cause.all_input_nodes, *cause.users) if node in came_from]
        if not ends:
            return ()
        nearest = min((_back(node, came_from) for node in ends), key=len)
        path = [node for node in nearest if node.op != "get_attr"]
        return tuple(step(node) for node in (path if path and path[-1] is cause else [*path, cause]))

    def _remarks(self, dim: Dim, axis: Axis, carrying: Mapping[fx.Node, None]) -> Iterator[str]:
        beside = max((_times(part.parts, axis.id) for part in dim if isinstance(part, Join)), default=0)
        if beside > 1:
            told = step(node) if (node := self._joining(axis.id, carrying)) is not None else None
            by = f", tied to each other by {told.op}" if told else ""
            by += f" ({told.node})" if told and told.node != told.op else ""
            parts = "two halves" if beside == 2 else f"{beside} parts"
            yield f"the dim has it in {parts} side by side{by}"
        parameters = self.program.tensors.parameters
        constants = dict.fromkeys(s.tensor for s in axis.slots if s.tensor not in parameters)
        for name in list(constants)[:1]:
            others = f" and {len(constants) - 1} more" if len(constants) > 1 else ""
            yield f"constants of the model lie on it: {name}{others}"

    def _joining(self, axis: str, carrying: Mapping[fx.Node, None]) -> fx.Node | None:
        """The first node that puts parts of a dim on one axis side by side."""
        dims = self.program.axes.node_dims
        for node in self.nodes.values():
            if node in carrying and node.op == "call_function" and _times(dims.get(node.name, ()), axis) > 1:
                inputs = [dims.get(source.name, ()) for source in node.all_input_nodes if source in carrying]
                if len(inputs) > 1 and all(_times(given, axis) == 1 for given in inputs):
                    return node
        return None

    def _rank(self, tie: Tie) -> tuple[bool, int]:
        return len(self.program.axes.tensor_dims[tie.slot.tensor]) < 2, len(tie.steps)

    def _search(self, tensor: str, carrying: Mapping[fx.Node, None]) -> _Origins:
        """Where a shortest path along the axis from ``tensor`` came from, for every node that one reaches."""
        starts = [node for node in carrying if node.op == "get_attr" and node.target == tensor]
        came_from: _Origins = dict.fromkeys(starts)
        queue = deque(starts)
        while queue:
            node = queue.popleft()
            if node.op == "get_attr" and node.target != tensor:
                continue
            for neighbour in (*node.all_input_nodes, *node.users):
                if neighbour in carrying and neighbour not in came_from:
                    came_from[neighbour] = node
                    queue.append(neighbour)
        return came_from

    def _carrying(self, axis: str) -> dict[fx.Node, None]:
        """The nodes whose result has the axis, and those that sum over it."""
        table = self.program.axes
        names = [name for name, dims in table.node_dims.items() if _times(dims, axis)]
        names += [total.node for total in table.sums if total.axis == axis]
        return dict.fromkeys(self.nodes[name] for name in names if name in self.nodes)


def step(node: fx.Node) -> Step:
    """What is told of a node."""
    return Step(node.name, op_label(node), str(node.meta.get("source") or ""))


def _back(node: fx.Node, came_from: _Origins) -> list[fx.Node]:
    path, current = [node], came_from[node]
    while current is not None:
        path.append(current)
        current = came_from[current]
    return path[::-1]


def _times(dims: Iterable[Dim], axis: str) -> int:
    """How often an axis occurs in dims."""
    return sum(leaf.axis == axis for dim in dims for leaf in dim.leaves())
