"""Running a program node by node, and what training and evaluation change in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph import ops
from mlgraph.errors import MlgraphError
from mlgraph.normalize.effects import memory, mutates
from mlgraph.program import Program

aten = torch.ops.aten


def follows_mode(node: fx.Node) -> str | None:
    """The argument by which an op is told that the model trains, where it is set; else ``None``.

    Batch norm without running statistics normalises by the batch in both modes and does not count,
    nor do dropout, attention and ``drop_path``, which modules of their own stand for.
    """
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or target is aten.dropout.default:
        return None
    for position, argument in enumerate(target._schema.arguments):
        if argument.name in ("train", "training"):
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            if given is not True:
                return None
            return argument.name if target is not aten.batch_norm.default or node.args[3] else None
    return None


def set_argument(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, value: Any) -> Any:
    """The arguments of an ATen call with the one called ``name`` replaced."""
    target: Any = node.target
    position = [argument.name for argument in target._schema.arguments].index(name)
    if position < len(args):
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def run(
    program: Program,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    training: bool = False,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """What the program returns for ``args`` and ``kwargs`` in their captured structure.

    In evaluation dropout, attention dropout and stochastic depth are left out, batch norm uses its
    running statistics and no buffer is written. ``tensors`` stand in for the program's own.
    """
    leaves = pytree.tree_leaves((args, dict(kwargs or {})))
    if len(leaves) != len(program.signature.inputs):
        raise MlgraphError(
            f"{program.name} takes {len(program.signature.inputs)} inputs, not {len(leaves)}; "
            f"pass them as captured: {program.signature.in_spec}"
        )
    values = program.tensors if tensors is None else tensors
    placed = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    device = placed[0].device if placed else next(iter(values.values())).device
    root = memory(program.graph)
    uses = {node: len(node.users) for node in program.graph.nodes}
    env: dict[fx.Node, Any] = {}
    inputs = iter(leaves)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(inputs)
        elif node.op == "get_attr":
            env[node] = values[str(node.target)]
        elif node.op == "call_function":
            if mutates(node) and root[node].op == "get_attr" and not training:
                env[node] = env[node.args[0]]
            else:
                env[node] = _call(node, env, device, training)
        else:
            results = fx.map_arg(node.args[0], env.__getitem__)
            return pytree.tree_unflatten(list(results), program.signature.out_spec)
        for source in node.all_input_nodes:
            uses[source] -= 1
            if not uses[source]:
                del env[source]
    raise MlgraphError(f"{program.name} has no output")


def _call(node: fx.Node, env: Mapping[fx.Node, Any], device: torch.device, training: bool) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    args = tuple(device if isinstance(argument, torch.device) else argument for argument in args)
    kwargs = {k: device if isinstance(v, torch.device) else v for k, v in kwargs.items()}
    if not training:
        if node.target in (aten.dropout.default, ops.drop_path):
            return args[0]
        mode = follows_mode(node)
        if mode is not None:
            args, kwargs = set_argument(node, args, kwargs, mode, False)
        if node.target is aten.scaled_dot_product_attention.default:
            args, kwargs = set_argument(node, args, kwargs, "dropout_p", 0.0)
    assert callable(node.target)
    return node.target(*args, **kwargs)
