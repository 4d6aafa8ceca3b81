"""Shapes and dtypes of every node, by running the graph on fake tensors of the example sizes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from mlgraph.errors import MlgraphError, first_line
from mlgraph.graph.copying import copy_graph
from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait

if TYPE_CHECKING:
    from mlgraph.program import Program, Signature

# A program has one device; wherever its tensors lie, shapes are worked out on this one.
DEVICE = torch.device("cpu")


class PropagationError(MlgraphError):
    """A node of the graph does not run at the sizes of its inputs."""


Runner = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def apply(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a node's target as it is."""
    return target(*args, **kwargs)


@contextmanager
def without_tracebacks() -> Iterator[None]:
    """Keep torch from logging a traceback wherever an op refuses fake tensors: what is tried may fail."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def propagate(
    graph: fx.Graph, signature: Signature, tensors: Mapping[str, torch.Tensor], call: Runner = apply
) -> None:
    """Set ``meta["val"]`` of every node, in place.

    Inputs take the example sizes of ``signature``, so that sizes are plain integers; symbols arise only
    where a size depends on data (``nonzero``). ``tensors`` may lie on any device, the meta device
    included; only their shape, stride and dtype are read. ``call`` runs each target on its arguments; a graph
    that is not trusted gets one that refuses what would take too long. Raises ``PropagationError`` naming the
    first node that fails, its shapes and its line in the model's source.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    inputs = iter(signature.inputs)
    fakes = cache(lambda name: fake_like(tensors[name]))
    with torch.no_grad(), mode, without_tracebacks():
        for node in graph.nodes:
            if node.op == "placeholder":
                leaf = next(inputs)
                node.meta["val"] = (
                    torch.empty(leaf.shape, dtype=leaf.dtype, device=DEVICE) if leaf.is_tensor else leaf.value
                )
            elif node.op == "get_attr":
                node.meta["val"] = fakes(str(node.target))
            elif node.op == "call_function":
                node.meta["val"] = _run(node, call)
            elif node.op == "output":
                node.meta["val"] = fx.map_arg(node.args[0], _value)


def fake_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape, strides and dtype on the program's device; call it in a fake mode."""
    if tensor.layout is torch.strided:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _run(node: fx.Node, call: Runner) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), _value)
    assert callable(node.target)
    if has(node, Trait.DROPS):
        # composite ones ask whether a tensor is empty, which is not known where its size depends on data
        return torch.empty_like(args[0])  # type: ignore[arg-type]
    try:
        return call(node.target, args, kwargs)
    except Exception as error:
        reason = first_line(error)
        shapes = ", ".join(f"{n.name} {describe(n.meta.get('val'))}" for n in node.all_input_nodes)
        source = node.meta.get("source")
        where = f" at {source}" if source else ""
        raise PropagationError(
            f"node {node.name} ({node.target}) on {shapes or 'no inputs'}{where} does not run: {reason}"
        ) from error


def describe(value: Any) -> str:
    """A node's value in a few characters, as ``float32[2, 7, 64]``."""
    if isinstance(value, torch.Tensor):
        sizes = ", ".join(str(size) for size in value.shape)
        return f"{str(value.dtype).removeprefix('torch.')}[{sizes}]"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(describe(item) for item in value) + ")"
    return repr(value)


def at_sizes(program: Program, shapes: Sequence[tuple[int, ...]]) -> fx.Graph:
    """A copy of the program's graph, propagated on inputs of other shapes, one for each input leaf."""
    graph = copy_graph(program.graph)
    inputs = program.signature.inputs
    given = tuple(dataclasses.replace(leaf, shape=shape) for leaf, shape in zip(inputs, shapes, strict=True))
    propagate(graph, dataclasses.replace(program.signature, inputs=given), program.tensors.meta())
    return graph
