"""Programs in another floating-point dtype."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.emit.casts import Casts, follow_casts
from mlgraph.graph.copying import copy_graph
from mlgraph.graph.interpret import DOUBLE
from mlgraph.graph.propagate import propagate

if TYPE_CHECKING:
    from mlgraph.program import Program

aten = torch.ops.aten


def with_dtype(program: Program, dtype: torch.dtype) -> Program:
    """The program with parameters, buffers and floating-point inputs in ``dtype``.

    Casts that restore the model's dtype now restore ``dtype``; casts that raise to float32 stay, and so do
    buffers that nothing reads but such casts (tables of rotary frequencies keep their precision).
    """
    casts = follow_casts(program)
    if casts.dtype is dtype:
        return program

    def recast(node: fx.Node, new: fx.Node) -> None:
        if node in casts.restored:
            new.args = (new.args[0], dtype)
            new.kwargs = {}
        elif node in casts.fills:
            new.kwargs = {**new.kwargs, "dtype": dtype}

    graph = copy_graph(program.graph, recast)
    precise = _precise(program, casts)
    values: dict[str, torch.Tensor] = {}
    for name, tensor in program.tensors.items():
        if tensor.dtype is not casts.dtype or name in precise:
            values[name] = tensor
        elif name in program.tensors.parameters:
            trains = _trains(program, name, tensor)
            values[name] = nn.Parameter(tensor.detach().to(dtype), requires_grad=trains)
        else:
            values[name] = tensor.detach().to(dtype)
    inputs = tuple(
        dataclasses.replace(leaf, dtype=dtype) if leaf.dtype is casts.dtype else leaf
        for leaf in program.signature.inputs
    )
    signature = dataclasses.replace(program.signature, inputs=inputs)
    tensors = program.tensors.replace(values)
    propagate(graph, signature, tensors)
    return program.with_values(tensors, graph, signature)


def _trains(program: Program, name: str, tensor: torch.Tensor) -> bool:
    return tensor.requires_grad if isinstance(tensor, nn.Parameter) else name not in program.tensors.frozen


def _precise(program: Program, casts: Casts) -> set[str]:
    found: set[str] = set()
    for node in program.graph.nodes:
        if node.op != "get_attr" or str(node.target) in program.tensors.persistent or not node.users:
            continue
        if all(user in casts.raising for user in node.users):
            found.add(str(node.target))
    return found


def holds_double(program: Program) -> bool:
    """Whether the parameters of a program are float64."""
    dtypes = {program.tensors[name].dtype for name in program.tensors.parameters}
    return torch.float64 in dtypes


def widen(program: Program) -> Program:
    """The program in float64 throughout: tensors, inputs, and every float32 that the graph names.

    Models cast to float32 around norms and softmaxes to be safe in bfloat16; in float64 such a cast would
    lose what exactness is measured by.
    """
    values = {
        n: t.detach().to(DOUBLE[t.dtype]) if t.dtype in DOUBLE else t for n, t in program.tensors.items()
    }
    inputs = tuple(
        leaf if leaf.dtype is None else dataclasses.replace(leaf, dtype=DOUBLE.get(leaf.dtype, leaf.dtype))
        for leaf in program.signature.inputs
    )
    signature = dataclasses.replace(program.signature, inputs=inputs)

    def widened(node: fx.Node, new: fx.Node) -> None:
        new.args, new.kwargs = pytree.tree_map(_double, (new.args, dict(new.kwargs)), is_leaf=_is_node)
        if _has_default_dtype(node):
            new.kwargs = {**new.kwargs, "dtype": DOUBLE[node.meta["val"].dtype]}

    graph = copy_graph(program.graph, widened)
    tensors = program.tensors.replace(values)
    propagate(graph, signature, tensors)
    return program.with_values(tensors, graph, signature)


def _has_default_dtype(node: fx.Node) -> bool:
    """Whether an op makes a narrow tensor out of none, in torch's default dtype."""
    target: Any = node.target
    made = node.meta.get("val")
    if not isinstance(made, torch.Tensor) or made.dtype not in DOUBLE or not hasattr(target, "_schema"):
        return False
    if any(isinstance(source.meta.get("val"), torch.Tensor) for source in node.all_input_nodes):
        return False
    names = [argument.name for argument in target._schema.arguments]
    return "dtype" in names and node.kwargs.get("dtype") is None and len(node.args) <= names.index("dtype")


def _is_node(argument: Any) -> bool:
    return isinstance(argument, fx.Node)


def _double(argument: Any) -> Any:
    return DOUBLE.get(argument, argument) if isinstance(argument, torch.dtype) else argument
