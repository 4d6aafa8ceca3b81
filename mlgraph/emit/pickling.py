"""Programs as plain data that pickle and copy: graphs hold op objects, which do neither."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.graph.propagate import propagate
from mlgraph.program import Lineage, Program

_KEPT_META = ("module", "source", "autocast")


@dataclasses.dataclass(frozen=True)
class _Reference:
    """A node, by its place in the graph."""

    index: int


@dataclasses.dataclass(frozen=True)
class _Overload:
    """An ATen (or custom) op by its qualified name and overload."""

    name: str
    overload: str


@dataclasses.dataclass(frozen=True)
class PackedProgram:
    """A program without a graph object; :meth:`unpack` makes it anew."""

    nodes: tuple[tuple[str, str, Any, Any, Any, Any], ...]
    fields: dict[str, Any]
    lineage: tuple[dict[str, Any], PackedProgram] | None

    def unpack(self) -> Program:
        """The program, with shapes propagated."""
        graph = fx.Graph()
        made: list[fx.Node] = []

        def restore(value: Any) -> Any:
            return fx.node.map_aggregate(
                value, lambda leaf: made[leaf.index] if isinstance(leaf, _Reference) else leaf
            )

        for op, name, target, args, kwargs, meta in self.nodes:
            if isinstance(target, _Overload):
                namespace, packet = target.name.split("::")
                target = getattr(getattr(getattr(torch.ops, namespace), packet), target.overload)
            node = graph.create_node(op, target, restore(args), restore(kwargs), name=name)
            node.meta = dict(meta)
            made.append(node)
        lineage = None
        if self.lineage is not None:
            kept, parent = self.lineage
            lineage = Lineage(parent=parent.unpack(), **kept)
        signature = self.fields["signature"]
        specs = {name: unpack_spec(getattr(signature, name)) for name in ("in_spec", "out_spec")}
        fields = {**self.fields, "signature": dataclasses.replace(signature, **specs)}
        program = Program(graph=graph, lineage=lineage, **fields)
        propagate(graph, program.signature, program.tensors)
        return program


def pack(program: Program) -> PackedProgram:
    """The program as plain data; its tensors are held, not copied."""
    index = {node: position for position, node in enumerate(program.graph.nodes)}

    def refer(node: fx.Node) -> Any:
        return _Reference(index[node])

    nodes = []
    for node in program.graph.nodes:
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload):
            target = _Overload(target._schema.name, target._overloadname)
        meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), refer)
        nodes.append((node.op, node.name, target, args, kwargs, meta))
    fields = {
        field.name: getattr(program, field.name)
        for field in dataclasses.fields(program)
        if field.name not in ("graph", "lineage")
    }
    fields["tensors"] = program.tensors.replace(dict(program.tensors.items()))
    signature = fields["signature"]
    specs = {name: pack_spec(getattr(signature, name)) for name in ("in_spec", "out_spec")}
    fields["signature"] = dataclasses.replace(signature, **specs)
    lineage = None
    if program.lineage is not None:
        kept = {f.name: getattr(program.lineage, f.name) for f in dataclasses.fields(program.lineage)}
        parent = kept.pop("parent")
        lineage = (kept, pack(parent))
    return PackedProgram(tuple(nodes), fields, lineage)


def pack_spec(spec: pytree.TreeSpec) -> Any:
    """A pytree's structure as plain tuples: pickled as it is, torch warns of the class of its leaves."""
    if spec.is_leaf():
        return None
    return spec.type, spec.context, tuple(pack_spec(child) for child in spec.children())


def unpack_spec(packed: Any) -> pytree.TreeSpec:
    """The structure that :func:`pack_spec` packed."""
    if packed is None:
        return pytree.tree_structure(0)
    kind, context, children = packed
    return pytree.TreeSpec(kind, context, [unpack_spec(child) for child in children])
