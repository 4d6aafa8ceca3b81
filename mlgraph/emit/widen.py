"""Programs in double precision: casts that guard low precision must not lower it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.graph.propagate import propagate
from mlgraph.program import Program


def holds_double(program: Program) -> bool:
    """Whether the parameters of a program are float64."""
    dtypes = {program.tensors[name].dtype for name in program.tensors.parameters}
    return torch.float64 in dtypes


def widen(program: Program) -> Program:
    """The program in float64 throughout: tensors, inputs, and every float32 that the graph names.

    Models cast to float32 around norms and softmaxes to be safe in bfloat16; in float64 such a cast would
    lose what exactness is measured by.
    """
    values = {n: t.detach().double() if t.dtype in _NARROW else t for n, t in program.tensors.items()}
    inputs = tuple(
        dataclasses.replace(leaf, dtype=torch.float64) if leaf.dtype in _NARROW else leaf
        for leaf in program.signature.inputs
    )
    signature = dataclasses.replace(program.signature, inputs=inputs)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        new = graph.node_copy(node, copies.__getitem__)
        new.meta = dict(node.meta)
        new.args, new.kwargs = pytree.tree_map(_double, (new.args, dict(new.kwargs)), is_leaf=_is_node)
        copies[node] = new
    tensors = program.tensors.replace(values)
    propagate(graph, signature, tensors)
    wide = program.replace(graph=graph, tensors=tensors, signature=signature)
    for analysis in ("axes", "blocks"):
        if analysis in program.__dict__:
            wide.__dict__[analysis] = program.__dict__[analysis]
    return wide


_NARROW = (torch.float32, torch.bfloat16, torch.float16)


def _is_node(argument: Any) -> bool:
    return isinstance(argument, fx.Node)


def _double(argument: Any) -> Any:
    return torch.float64 if argument in _NARROW and isinstance(argument, torch.dtype) else argument
