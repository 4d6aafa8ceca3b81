"""The axes of a program as data: slots, dims in axes, what is frozen and why."""

from __future__ import annotations

import dataclasses
import difflib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlgraph.axes import factors
from mlgraph.axes.expressions import DimExpr, Join, Leaf, Term, leaves, render
from mlgraph.axes.expressions import size_of as expression_size
from mlgraph.axes.factors import Dim, Factor, Reason
from mlgraph.axes.names import Candidate, name_axes
from mlgraph.errors import AxisError
from mlgraph.program import Program

if TYPE_CHECKING:
    from mlgraph.axes.infer import Contraction, Inference


@dataclass(frozen=True)
class Slot:
    """One occurrence of an axis: the dim of a tensor, and the role the axis has there.

    ``role`` is ``"emits"``, ``"contracts"`` or ``"both"``; ``occurrence`` counts the leaves of the dim,
    from major to minor.
    """

    tensor: str
    dim: int
    role: str
    occurrence: int = 0


@dataclass(frozen=True)
class Axis:
    """A dimension that tensors share.

    ``id`` is unique in its program; ``name`` is shared by the like axes of all blocks. ``frozen`` is the
    reason why the axis cannot be coarsened at all, ``kept`` the reason why it is not coarsened by default;
    ``where`` names the node that gave rise to the reason.
    """

    id: str
    name: str
    size: int
    slots: tuple[Slot, ...]
    frozen: str | None = None
    kept: str | None = None
    where: str = ""

    @property
    def coarsenable_by_default(self) -> bool:
        return self.frozen is None and self.kept is None


@dataclass(frozen=True)
class Sum:
    """A contraction over an axis: at ``node``, over dim ``position`` of each operand.

    ``carrier`` is the tensor whose slot is summed against (the last operand), ``None`` where activations
    meet; ``shared`` says that the carrier also emits on the axis (a tied table), so that no factor on it is
    right for both uses.
    """

    axis: str
    node: str
    operands: tuple[tuple[str, int], ...]
    carrier: str | None
    shared: bool
    repairable: bool


@dataclass(frozen=True, eq=False)
class AxisTable(Sequence[Axis]):
    """All axes of a program; indexed by position, by id, or by a name that one axis has."""

    axes: tuple[Axis, ...]
    tensor_dims: dict[str, tuple[DimExpr, ...]]
    node_dims: dict[str, Any]
    roles: dict[tuple[str, int], tuple[str, ...]]
    sums: tuple[Sum, ...]
    averages: tuple[tuple[str, str], ...]
    tables: frozenset[str]
    unknown: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.axes)

    def __iter__(self) -> Iterator[Axis]:
        return iter(self.axes)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            found = self.select(key)
            if len(found) > 1:
                ids = ", ".join(axis.id for axis in found[:4])
                raise AxisError(
                    f"{len(found)} axes are named '{key}' ({ids}, ...): name one of them by its id."
                )
            return found[0]
        return self.axes[key]

    def select(self, name: str) -> tuple[Axis, ...]:
        """The axes with this id or this name.

        Raises:
            AxisError: there is none; the message lists the nearest.
        """
        found = tuple(axis for axis in self.axes if axis.id == name) or tuple(
            axis for axis in self.axes if axis.name == name
        )
        if not found:
            known = sorted({axis.name for axis in self.axes} | {axis.id for axis in self.axes})
            near = difflib.get_close_matches(name, known, n=3) or sorted({axis.name for axis in self.axes})
            raise AxisError(f"there is no axis '{name}'; the nearest are {', '.join(near)}.")
        return found

    def dims(self, tensor: str) -> tuple[str, ...]:
        """The dims of a tensor in axis names, e.g. ``("heads·head_dim", "hidden")``."""
        names = {axis.id: axis.name for axis in self.axes}
        return tuple(render(dim, lambda a: names.get(a, "?")) for dim in self.tensor_dims[tensor])

    def __str__(self) -> str:
        return render_table(self)

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(render_table(self))


def build_table(program: Program, run: Inference) -> AxisTable:
    """Read the axes off a finished inference."""
    roles = _roles(run)
    _freeze_outputs(program, run, roles)
    occurrences = _occurrences(run)
    ids, axes = _axes(run, roles, occurrences)
    expressions = _Expressions(ids)
    tensor_dims = {t: tuple(expressions.dim(dim) for dim in dims) for t, dims in run.main.items()}
    node_dims: dict[str, Any] = {}
    for node, dims in run.values.items():
        if node.graph is program.graph and dims is not None:
            node_dims[node.name] = _tree(dims, expressions)
    axes, borrowed = _adopt_unread(program, tensor_dims, axes)
    sums = tuple(_sums(run, ids))
    averages = tuple(
        dict.fromkeys(
            (ids[id(leaf)], node.name)
            for node, dim in run.averages
            for leaf in factors.leaves(dim)
            if id(leaf) in ids
        )
    )
    tables = frozenset(
        run.views[n.args[0]].tensor
        for n in program.graph.nodes
        if n.op == "call_function"
        and getattr(n.target, "_opname", "") == "embedding"
        and n.args[0] in run.views
    )
    flat_roles = {key: tuple(_role(f) for f in found) for key, found in roles.items()}
    for tensor in borrowed:
        for index, dim in enumerate(tensor_dims[tensor]):
            flat_roles[tensor, index] = ("emits",) * len(list(leaves(dim)))
    return AxisTable(
        tuple(axes), tensor_dims, node_dims, flat_roles, sums, averages, tables, run.unknown, borrowed
    )


def _adopt_unread(
    program: Program, tensor_dims: dict[str, tuple[DimExpr, ...]], axes: list[Axis]
) -> tuple[list[Axis], tuple[str, ...]]:
    """Give parameters that no op reads the axes of their neighbours.

    The graph says nothing of them (a mask token, when no mask is given), yet they belong to the model's
    class. A dim takes the axis that all read tensors nearest by module path have on their dims of that
    size, if it is one.
    """
    unread = [n for n in program.tensors if n in program.tensors.parameters and n not in tensor_dims]
    slots: defaultdict[str, list[Slot]] = defaultdict(list)
    adopted = []
    for name in unread:
        dims: list[DimExpr] = []
        for index, size in enumerate(program.tensors[name].shape):
            dim = _neighbours_dim(name, size, tensor_dims) if size > 1 else ()
            dims.append(dim if dim is not None else (Leaf(f"~{name}.{index}", size),))
            if dim:
                for count, leaf in enumerate(leaves(dim)):
                    slots[leaf.axis].append(Slot(name, index, "emits", count))
        tensor_dims[name] = tuple(dims)
        adopted.append(name)
    if slots:
        axes = [dataclasses.replace(a, slots=(*a.slots, *slots[a.id])) if a.id in slots else a for a in axes]
    return axes, tuple(adopted)


def _neighbours_dim(name: str, size: int, tensor_dims: dict[str, tuple[DimExpr, ...]]) -> DimExpr | None:
    parts = name.split(".")[:-1]
    for depth in range(len(parts), -1, -1):
        prefix = ".".join(parts[:depth]) + "." if depth else ""
        found = {
            dim
            for t, dims in tensor_dims.items()
            if t.startswith(prefix)
            for dim in dims
            if expression_size(dim) == size
        }
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _tree(dims: Any, expressions: _Expressions) -> Any:
    if dims and isinstance(dims[0], list):
        return tuple(_tree(item, expressions) for item in dims)
    return tuple(expressions.dim(dim) for dim in dims)


class _Expressions:
    """Factors to immutable expressions; factors that lie on no tensor get numbered ids."""

    def __init__(self, ids: dict[int, str]) -> None:
        self.ids = ids
        self.other: dict[int, tuple[Factor, str]] = {}

    def dim(self, dim: Dim) -> DimExpr:
        return tuple(self.term(factor) for factor in factors.resolve(dim))

    def term(self, factor: Factor) -> Term:
        if factor.concat is not None:
            return Join(tuple(self.dim(part) for part in factor.concat))
        name = self.ids.get(id(factor))
        if name is None:
            _, name = self.other.setdefault(id(factor), (factor, f"~{len(self.other)}"))
        return Leaf(name, factor.size)


def _roles(run: Inference) -> dict[tuple[str, int], list[Factor]]:
    """Per tensor dim, one private leaf per occurrence of an axis, carrying the roles of that occurrence."""
    out: dict[tuple[str, int], list[Factor]] = {}
    for tensor, dims in run.main.items():
        for index, dim in enumerate(dims):
            mirrored: list[Factor] = []
            copy = _mirror(dim, mirrored)
            try:
                factors.unify(copy, run.own[tensor][index])
            except factors.Misaligned:
                for leaf in mirrored:
                    leaf.roles.add("emits")
            out[tensor, index] = mirrored
    return out


def _mirror(dim: Dim, mirrored: list[Factor]) -> Dim:
    out: list[Factor] = []
    for factor in factors.resolve(dim):
        copy = Factor(factor.size)
        if factor.concat is not None:
            copy.concat = tuple(_mirror(part, mirrored) for part in factor.concat)
        else:
            mirrored.append(copy)
        out.append(copy)
    return tuple(out)


def _role(leaf: Factor) -> str:
    roles = {role for part in factors.leaves((leaf,)) for role in part.roles} or {"emits"}
    return "both" if len(roles) > 1 else next(iter(roles))


def _occurrences(run: Inference) -> dict[int, tuple[Factor, list[tuple[str, int, int]]]]:
    out: dict[int, tuple[Factor, list[tuple[str, int, int]]]] = {}
    for tensor, dims in run.main.items():
        for index, dim in enumerate(dims):
            for count, leaf in enumerate(factors.leaves(dim)):
                out.setdefault(id(leaf), (leaf, []))[1].append((tensor, index, count))
    return out


def _freeze_outputs(program: Program, run: Inference, roles: dict[tuple[str, int], list[Factor]]) -> None:
    """Freeze what the outputs count: classes and vocabulary, whose only use is to be returned.

    An axis that a parameter contracts, or that was activated and is as wide as what it was made from (a
    pooler), is a feature and may be exposed.
    """
    contracted: set[int] = set()
    square: set[int] = set()
    for tensor, dims in run.main.items():
        for index, dim in enumerate(dims):
            for leaf, role in zip(factors.leaves(dim), roles[tensor, index], strict=True):
                if _role(role) != "emits":
                    contracted.add(id(leaf))
                if len(dims) == 2 and factors.size_of(dims[0]) == factors.size_of(dims[1]):
                    square.add(id(leaf))
    for dim in run.outputs:
        for leaf in factors.leaves(dim):
            feature = id(leaf) in contracted or ("activated" in leaf.hints and id(leaf) in square)
            if not feature and leaf.frozen is None:
                leaf.frozen = Reason("it is returned by the model and nothing else contracts it", "output")


def _axes(
    run: Inference,
    roles: dict[tuple[str, int], list[Factor]],
    occurrences: dict[int, tuple[Factor, list[tuple[str, int, int]]]],
) -> tuple[dict[int, str], list[Axis]]:
    _mark_shared_heads(run)
    candidates = []
    slots: dict[int, tuple[Slot, ...]] = {}
    for key, (leaf, places) in occurrences.items():
        slots[key] = tuple(Slot(t, d, _role(roles[t, d][c]), c) for t, d, c in places)
        ranks = {t: len(run.main[t]) for t, _, _ in places}
        candidates.append(
            Candidate(
                key,
                tuple((s.tensor, s.dim, s.role) for s in slots[key]),
                ranks,
                leaf.frozen,
                frozenset(leaf.hints),
            )
        )
    named = name_axes(candidates)
    minor = _minors(run, occurrences, roles)
    axes = []
    ids: dict[int, str] = {}
    for key, (leaf, places) in occurrences.items():
        ids[key], name = named[key]
        reason = leaf.frozen or (leaf.blocked[0] if leaf.blocked else None)
        kept = None if leaf.frozen or not leaf.blocked else leaf.blocked[0].text
        if leaf.frozen is None and kept is None:
            kept = _unmade(run, leaf, places, roles)
        if leaf.frozen is None and kept is None and key in minor:
            kept = f"{named[minor[key]][1]}, with which it makes up a dim, is coarsened instead"
        axes.append(
            Axis(
                ids[key],
                name,
                leaf.size,
                slots[key],
                leaf.frozen.text if leaf.frozen else None,
                kept,
                reason.node if reason else "",
            )
        )
    return ids, axes


def _mark_shared_heads(run: Inference) -> None:
    """Heads that others repeat (grouped-query attention) stand beside their repetition in some dim."""
    for dims in run.main.values():
        for dim in dims:
            for leaf in list(factors.leaves(dim)):
                if {"rep", "heads"} <= leaf.hints:
                    for other in factors.leaves(dim):
                        if "heads" in other.hints and "rep" not in other.hints:
                            other.hints.add("shared")


def _unmade(
    run: Inference,
    leaf: Factor,
    places: Sequence[tuple[str, int, int]],
    roles: dict[tuple[str, int], list[Factor]],
) -> str | None:
    """Why an axis that parameters do not both make and use is kept."""
    used = [(t, {r for part in factors.leaves((roles[t, d][c],)) for r in part.roles}) for t, d, c in places]
    if not any(found for _, found in used):
        return "nothing reads it"
    parameters = run.program.tensors.parameters
    if not any(t in parameters and found != {"contracts"} for t, found in used):
        return "its values are constants of the model"
    if "activated" not in leaf.hints and not any("contracts" in found for _, found in used):
        return "no parameter contracts it"
    return None


def _minors(
    run: Inference,
    occurrences: dict[int, tuple[Factor, list[tuple[str, int, int]]]],
    roles: dict[tuple[str, int], list[Factor]],
) -> dict[int, int]:
    """Axes that stand behind another coarsenable one in some dim: only the major one of a dim is
    coarsened."""
    out: dict[int, int] = {}

    def free(leaf: Factor) -> bool:
        return leaf.frozen is None and not leaf.blocked

    def scan(dim: Dim) -> None:
        lead: Factor | None = None
        for factor in factors.resolve(dim):
            if factor.concat is not None:
                for part in factor.concat:
                    scan(part)
                within = [leaf for leaf in factors.leaves((factor,)) if free(leaf)]
                if lead is not None:
                    for leaf in within:
                        out.setdefault(id(leaf), id(lead))
                elif within:
                    lead = within[0]
            elif free(factor):
                if lead is None:
                    lead = factor
                elif factor is not lead:
                    out.setdefault(id(factor), id(lead))

    for dims in run.main.values():
        for dim in dims:
            scan(dim)
    for parts in _summed_together(run):
        scan(tuple(factor for part in parts for factor in part))
    return out


def _summed_together(run: Inference) -> Iterator[list[Dim]]:
    """Dims that one op sums over at once, of one activation against one parameter: one dim in pieces."""
    by_op: defaultdict[tuple[str, str], list[Contraction]] = defaultdict(list)
    for found in run.contractions:
        if found.carrier is not None:
            by_op[found.node.name, found.carrier].append(found)
    for together in by_op.values():
        together.sort(key=lambda found: found.operands[-1][1])
        first = together[0]
        activations = {node for node, _ in first.operands[:-1]}
        alike = [f for f in together if activations & {node for node, _ in f.operands[:-1]}]
        if len(alike) > 1:
            yield [found.dim for found in alike]


def _sums(run: Inference, ids: dict[int, str]) -> Iterator[Sum]:
    for found in run.contractions:
        operands = tuple((node.name, position) for node, position in found.operands)
        roles: defaultdict[str, set[str]] = defaultdict(set)
        if found.carrier is not None:
            carried = list(factors.leaves(found.carried))
            merged = {role for leaf in carried for role in leaf.roles}
            same = len(carried) == len(list(factors.leaves(found.dim)))
            for position, leaf in enumerate(factors.leaves(found.dim)):
                key = ids.get(id(leaf), "")
                roles[key] |= set(carried[position].roles) if same else merged
        for axis in dict.fromkeys(ids[id(leaf)] for leaf in factors.leaves(found.dim) if id(leaf) in ids):
            yield Sum(
                axis, found.node.name, operands, found.carrier, "emits" in roles[axis], found.repairable
            )


def render_table(table: AxisTable) -> str:
    """One line per family of axes: name, size, how many axes and slots, and what is done with it."""
    families: dict[tuple[str, int, str], list[Axis]] = defaultdict(list)
    for axis in table.axes:
        status = (
            f"frozen: {axis.frozen}" if axis.frozen else f"kept: {axis.kept}" if axis.kept else "coarsenable"
        )
        families[axis.name, axis.size, status].append(axis)
    lines = [f"{'axis':<14}{'size':>7}{'axes':>6}{'slots':>7}  status"]
    for (name, size, status), members in families.items():
        slots = sum(len(axis.slots) for axis in members)
        lines.append(f"{name:<14}{size:>7}{len(members):>6}{slots:>7}  {status}")
    return "\n".join(lines)
