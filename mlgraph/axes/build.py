"""Reads the axes off a finished inference."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlgraph.axes import factors
from mlgraph.axes.alike import keep_alike
from mlgraph.axes.defaults import (
    Occurrences,
    RoleTable,
    freeze_outputs,
    mark_shared_heads,
    minors,
    role_of,
    unmade,
)
from mlgraph.axes.factors import Factor, Factors
from mlgraph.axes.infer import Inference
from mlgraph.axes.names import NamingFacts, name_axes
from mlgraph.graph.ops import op_name
from mlgraph.program.axis_table import Axis, AxisTable, Reason, Role, Slot, Sum
from mlgraph.program.dims import Dim, Join, Leaf, NodeDims, Term

if TYPE_CHECKING:
    from mlgraph.program import Program


def infer_axes(program: Program) -> AxisTable:
    """Infer the axes of a program: every axis with its slots, and the dims of tensors and nodes in axes."""
    run = Inference(program).run()
    roles = _roles(run)
    freeze_outputs(run, roles)
    occurrences = _occurrences(run)
    ids, axes = _axes(run, roles, occurrences)
    expressions = _Expressions(ids)
    tensor_dims = {t: tuple(expressions.dim(dim) for dim in dims) for t, dims in run.main.items()}
    node_dims: dict[str, NodeDims] = {}
    for node, dims in run.values.items():
        if node.graph is program.graph and dims is not None:
            several = isinstance(run.value(node), (tuple, list))
            results = dims if several else [dims]
            node_dims[node.name] = NodeDims(
                tuple(tuple(expressions.dim(dim) for dim in result) for result in results), several
            )
    axes, borrowed = _adopt_unread(program, tensor_dims, axes)
    columns = (column for chain in program.blocks for column in chain.columns())
    means = tuple(dict.fromkeys((node.name, expressions.dim(dim)) for node, dim in run.averages))
    shares = tuple(dict.fromkeys((n.name, at, expressions.dim(dim)) for n, at, dim in run.shares))
    axes = keep_alike(axes, tensor_dims, list(columns), means)
    sums = tuple(_sums(run, ids))
    tables = frozenset(
        run.views[n.args[0]].tensor
        for n in program.graph.nodes
        if op_name(n) == "embedding" and n.args[0] in run.views
    )
    flat_roles = {key: tuple(role_of(f) for f in found) for key, found in roles.items()}
    for tensor in borrowed:
        for index, dim in enumerate(tensor_dims[tensor]):
            borne: list[Role] = ["emits"] * len(list(dim.leaves()))
            flat_roles[tensor, index] = tuple(borne)
    return AxisTable(
        tuple(axes), tensor_dims, node_dims, flat_roles, sums, means, tables, shares, run.unknown, borrowed
    )


def _adopt_unread(
    program: Program, tensor_dims: dict[str, tuple[Dim, ...]], axes: list[Axis]
) -> tuple[list[Axis], tuple[str, ...]]:
    """Give parameters that no op reads the axes of their neighbours.

    The graph says nothing of them (a mask token, when no mask is given), yet they belong to the model's
    class. It takes the dims of a tensor of the same shape whose path differs in numbers alone; else each dim
    takes the axes that most read tensors nearest by module path have on their dims of that size.
    """
    unread = [n for n in program.tensors if n in program.tensors.parameters and n not in tensor_dims]
    slots: defaultdict[str, list[Slot]] = defaultdict(list)
    adopted = []
    known = dict(tensor_dims)
    for name in unread:
        dims: list[Dim] = []
        twin = _twins_dims(name, tuple(program.tensors[name].shape), known)
        for index, size in enumerate(program.tensors[name].shape):
            dim = twin[index] if twin else _neighbours_dim(name, size, tensor_dims) if size > 1 else Dim()
            dims.append(dim if dim is not None else Dim((Leaf(f"~{name}.{index}", size),)))
            for count, leaf in enumerate(dim.leaves() if dim is not None else ()):
                slots[leaf.axis].append(Slot(name, index, "emits", count))
        tensor_dims[name] = tuple(dims)
        adopted.append(name)
    if slots:
        axes = [dataclasses.replace(a, slots=(*a.slots, *slots[a.id])) if a.id in slots else a for a in axes]
    return axes, tuple(adopted)


def _twins_dims(
    name: str, shape: tuple[int, ...], tensor_dims: dict[str, tuple[Dim, ...]]
) -> tuple[Dim, ...] | None:
    """The dims of the first tensor of this shape whose path is the same but for its numbers."""
    pattern = _without_numbers(name)
    for other, dims in tensor_dims.items():
        if _without_numbers(other) == pattern and tuple(dim.size for dim in dims) == shape:
            return dims
    return None


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _neighbours_dim(name: str, size: int, tensor_dims: dict[str, tuple[Dim, ...]]) -> Dim | None:
    """The dim of that size that is by far the most common among the nearest tensors, if there is one."""
    parts = name.split(".")[:-1]
    for depth in range(len(parts), -1, -1):
        prefix = ".".join(parts[:depth]) + "." if depth else ""
        found = Counter(
            dim for t, dims in tensor_dims.items() if t.startswith(prefix) for dim in dims if dim.size == size
        ).most_common(2)
        if len(found) == 1 or (len(found) == 2 and found[0][1] >= 2 * found[1][1]):
            return found[0][0]
    return None


class _Expressions:
    """Factors to immutable expressions; factors that lie on no tensor get numbered ids."""

    def __init__(self, ids: dict[int, str]) -> None:
        self.ids = ids
        self.other: dict[int, tuple[Factor, str]] = {}

    def dim(self, dim: Factors) -> Dim:
        return Dim(tuple(self.term(factor) for factor in factors.resolve(dim)))

    def term(self, factor: Factor) -> Term:
        if factor.concat is not None:
            return Join(tuple(self.dim(part) for part in factor.concat))
        name = self.ids.get(id(factor))
        if name is None:
            _, name = self.other.setdefault(id(factor), (factor, f"~{len(self.other)}"))
        return Leaf(name, factor.size)


def _roles(run: Inference) -> RoleTable:
    """Per tensor dim, one private leaf per occurrence of an axis, carrying the roles of that occurrence."""
    out: RoleTable = {}
    for tensor, dims in run.main.items():
        for index, dim in enumerate(dims):
            mirrored: list[Factor] = []
            copy = _mirror(dim, mirrored)
            try:
                factors.unify(copy, run.own[tensor][index])
            except factors.Misaligned:
                factors.add_role(mirrored, "emits")
            out[tensor, index] = mirrored
    return out


def _mirror(dim: Factors, mirrored: list[Factor]) -> Factors:
    out: list[Factor] = []
    for factor in factors.resolve(dim):
        copy = Factor(factor.size)
        if factor.concat is not None:
            copy.concat = tuple(_mirror(part, mirrored) for part in factor.concat)
        else:
            mirrored.append(copy)
        out.append(copy)
    return tuple(out)


def _occurrences(run: Inference) -> Occurrences:
    out: Occurrences = {}
    for tensor, dims in run.main.items():
        for index, dim in enumerate(dims):
            for count, leaf in enumerate(factors.leaves(dim)):
                out.setdefault(id(leaf), (leaf, []))[1].append((tensor, index, count))
    return out


def _axes(
    run: Inference,
    roles: RoleTable,
    occurrences: Occurrences,
) -> tuple[dict[int, str], list[Axis]]:
    mark_shared_heads(run)
    candidates = []
    slots: dict[int, tuple[Slot, ...]] = {}
    for key, (leaf, places) in occurrences.items():
        slots[key] = tuple(Slot(t, d, role_of(roles[t, d][c]), c) for t, d, c in places)
        ranks = {t: len(run.main[t]) for t, _, _ in places}
        candidates.append(
            NamingFacts(
                key,
                tuple((s.tensor, s.dim, s.role) for s in slots[key]),
                ranks,
                leaf.frozen,
                frozenset(leaf.hints),
                run.program.tensors.parameters.isdisjoint(ranks),
            )
        )
    named = name_axes(candidates)
    minor = minors(run)
    axes = []
    ids: dict[int, str] = {}
    for key, (leaf, places) in occurrences.items():
        ids[key], name = named[key]
        kept = None if leaf.frozen else min(leaf.blocked, key=lambda r: r.kind != "inexact", default=None)
        if leaf.frozen is None and kept is None:
            kept = unmade(run, leaf, places, roles)
        if leaf.frozen is None and kept is None and key in minor:
            major = named[minor[key]][1]
            kept = Reason("minor", f"{major}, with which it makes up a dim, is coarsened instead")
        axes.append(Axis(ids[key], name, leaf.size, slots[key], leaf.frozen, kept))
    return ids, axes


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
