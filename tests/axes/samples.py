"""One-op programs made from torch's own sample inputs, every operand a parameter or an activation."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from mlgraph.capture.normalize.functional import functional
from mlgraph.errors import MlgraphError
from mlgraph.graph.propagate import propagate
from mlgraph.program import Input, Program, Signature, Tensors
from mlgraph.program.tensors import InMemory

aten = torch.ops.aten
DTYPES = (torch.float64, torch.complex128, torch.int64, torch.bool)
# More elements than this teach nothing that fewer do not.
_MOST = 5000


@dataclass(frozen=True)
class Sample:
    """A call with its operands: ``graph`` takes their tensors as placeholders, in order."""

    name: str
    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    operands: tuple[torch.Tensor, ...]

    @property
    def targets(self) -> set[Any]:
        return {node.target for node in self.graph.nodes if node.op == "call_function"}


@cache
def op_infos() -> dict[str, Any]:
    """Torch's descriptions of its own ops, by name and variant."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    logging.disable(logging.NOTSET)
    return {
        info.name + (f".{info.variant_test_name}" if info.variant_test_name else ""): info for info in op_db
    }


# What these return depends on memory or chance, not on their operands.
_ARBITRARY = (
    "empty",
    "new_empty",
    "resize",
    "bernoulli",
    "multinomial",
    "normal",
    "rand",
    "uniform",
    "cauchy",
)
NAMES = [name for name in op_infos() if not name.startswith(_ARBITRARY)]
"""The ops whose results follow from their operands."""


def samples(name: str, count: int | None = None, seed: int = 0) -> Iterator[Sample]:
    """The traced calls of an op, all or ``count`` drawn at random; what cannot be traced is left out."""
    info = op_infos()[name]
    dtype = next((d for d in DTYPES if d in info.dtypes), None)
    if dtype is None:
        return
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = list(info.sample_inputs("cpu", dtype, requires_grad=False))
        order = list(range(len(given)))
        random.Random(f"{name}{seed}").shuffle(order)
        tries = order if count is None else order[: 4 * count]
        found = (
            traced(f"{name}[{i}]", info.op, given[i].input, *given[i].args, **given[i].kwargs) for i in tries
        )
        yield from islice((sample for sample in found if sample is not None), count)


def traced(name: str, function: Any, *args: Any, **kwargs: Any) -> Sample | None:
    """A call of a function as a graph of ATen ops; ``None`` where it is large or cannot be traced."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    operands = [leaves[i] for i in places]
    if not operands or any(t.layout is not torch.strided or not t.numel() for t in operands):
        return None
    if sum(t.numel() for t in operands) > _MOST:
        return None

    def call(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return pytree.tree_leaves(function(*args, **kwargs))

    try:
        with torch.no_grad():
            module = make_fx(call, pre_dispatch=True)(*operands)
    except Exception:  # what torch itself cannot trace never reaches a graph
        return None
    constants = {
        str(node.target): getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"
    }
    if not all(isinstance(value, torch.Tensor) for value in constants.values()):
        return None
    return Sample(name, module.graph, constants, tuple(t.detach().clone() for t in operands))


def program_of(sample: Sample, activations: Sequence[bool]) -> Program | None:
    """The call as a program that contracts its results with a vector per dim; ``None`` where it cannot run.

    Operand i is an activation (a parameter plus an input that is 0) where ``activations[i]``, else a
    parameter, or a constant if it holds integers.
    """
    graph = fx.Graph()
    zero = graph.placeholder("zero")
    values: dict[str, torch.Tensor] = dict(sample.constants)
    parameters: list[str] = []
    given = iter(zip(sample.operands, activations, strict=True))
    made: dict[fx.Node, Any] = {}
    for index, node in enumerate(sample.graph.nodes):
        if node.op == "placeholder":
            operand, moving = next(given)
            made[node] = _operand(graph, zero, f"p{index}", operand, moving, values, parameters)
        elif node.op == "output":
            results = [
                _read(graph, made[leaf], f"w{index}_{i}", leaf.meta["val"], values, parameters)
                for i, leaf in enumerate(node.args[0])
                if isinstance(leaf, fx.Node) and isinstance(leaf.meta.get("val"), torch.Tensor)
            ]
            results = [result for result in results if result is not None]
            graph.output(tuple(results))
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
    if not results:
        return None
    functional(graph)
    spec = pytree.tree_structure(((0,), {}))
    inputs = (Input("zero", (), torch.float64),)
    signature = Signature(inputs, spec, pytree.tree_structure(tuple(results)))
    tensors = Tensors(InMemory(values), frozenset(parameters), frozenset(values))
    try:
        propagate(graph, signature, tensors)
    except MlgraphError:
        return None
    return Program(graph, tensors, signature)


def _operand(
    graph: fx.Graph,
    zero: fx.Node,
    name: str,
    operand: torch.Tensor,
    moving: bool,
    values: dict[str, torch.Tensor],
    parameters: list[str],
) -> fx.Node:
    exact = operand.is_floating_point() or operand.is_complex()
    if not moving:
        values[name] = operand
        if exact:
            parameters.append(name)
        return graph.get_attr(name)
    values[name] = operand if exact else operand.double()
    parameters.append(name)
    node = graph.call_function(aten.add.Tensor, (graph.get_attr(name), zero))
    return node if exact else graph.call_function(aten.to.dtype, (node, operand.dtype))


def _read(
    graph: fx.Graph,
    node: fx.Node,
    name: str,
    value: torch.Tensor,
    values: dict[str, torch.Tensor],
    parameters: list[str],
) -> fx.Node | None:
    """The result, bent so that unequal copies do not sum to what equal ones do, times a vector per dim."""
    if value.dim() > 8 or not value.numel():
        return None
    if value.is_complex():
        node = graph.call_function(aten.abs.default, (node,))
    node = graph.call_function(aten.to.dtype, (node, torch.float64))
    node = graph.call_function(aten.atan.default, (graph.call_function(aten.nan_to_num.default, (node,)),))
    letters = "abcdefgh"[: value.dim()]
    vectors = []
    for letter, size in zip(letters, value.shape, strict=True):
        values[f"{name}{letter}"] = torch.rand(size, dtype=torch.float64) + 0.5
        parameters.append(f"{name}{letter}")
        vectors.append(graph.get_attr(f"{name}{letter}"))
    if not vectors:
        return node
    return graph.call_function(aten.einsum.default, (f"{letters},{','.join(letters)}->", [node, *vectors]))
