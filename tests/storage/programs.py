"""Small programs made by hand, so that storage is tested without the tracer."""

from __future__ import annotations

import collections
import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.graph import ops
from mlgraph.graph.propagate import propagate
from mlgraph.program import HuggingFaceOrigin, Input, Lineage, Note, Program, Signature, Tensors
from mlgraph.program.tensors import InMemory

aten = torch.ops.aten
Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


if Result not in pytree.SUPPORTED_NODES:
    pytree.register_dataclass(Result)


def mlp(width: int = 8, seed: int = 0, result: Any = None) -> Program:
    """A residual block on ``[batch, length]`` token ids with a tied head, dropout and a mask buffer."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = 11
    values = {
        "embed.weight": torch.randn(vocabulary, width, generator=generator),
        "norm.weight": torch.rand(width, generator=generator),
        "norm.bias": torch.rand(width, generator=generator).to(torch.float32),
        "up.weight": torch.randn(2 * width, width, generator=generator),
        "down.weight": torch.randn(width, 2 * width, generator=generator),
        "mask": torch.rand(5, 5, generator=generator) > 0.3,
        "scale": torch.tensor(0.5),
        "count": torch.tensor(3),
    }
    tensors = Tensors(
        InMemory(values),
        parameters=frozenset(name for name in values if "." in name),
        persistent=frozenset({*(name for name in values if "." in name), "count", "head.weight"}),
        aliases={"head.weight": "embed.weight"},
    )
    graph = fx.Graph()
    ids = graph.placeholder("input_ids")
    graph.placeholder("factor")
    table, gain, bias, up, down, scale = (
        graph.get_attr(name)
        for name in ("embed.weight", "norm.weight", "norm.bias", "up.weight", "down.weight", "scale")
    )
    x = graph.call_function(aten.embedding.default, (table, ids))
    batch = graph.call_function(aten.sym_size.int, (ids, 0))
    length = graph.call_function(aten.sym_size.int, (ids, 1))
    count = graph.call_function(operator.mul, (batch, length))
    y = graph.call_function(aten.layer_norm.default, (x, [width], gain, bias, 1e-5))
    y = graph.call_function(aten.linear.default, (y, up))
    y = graph.call_function(aten.gelu.default, (y,), {"approximate": "tanh"})
    y = graph.call_function(aten.linear.default, (y, down))
    y = graph.call_function(aten.dropout.default, (y, 0.1, True))
    y = graph.call_function(ops.drop_path, (y, 0.2, [0], True))
    y = graph.call_function(aten.mul.Tensor, (y, scale))
    y = graph.call_function(aten.add.Tensor, (y, x), {"alpha": 1.0})
    low = graph.call_function(
        aten.full.default, ([1], -float("inf")), {"dtype": torch.float32, "device": torch.device("cpu")}
    )
    y = graph.call_function(aten.maximum.default, (y, low))
    y = graph.call_function(aten.to.dtype, (y, torch.float32, False, False, torch.contiguous_format))
    flat = graph.call_function(aten.view.default, (y, [count, width]))
    parts = graph.call_function(aten.split.Tensor, (flat, width // 2, 1))
    first = graph.call_function(operator.getitem, (parts, 0))
    logits = graph.call_function(aten.linear.default, (y, table))
    graph.output((logits, first))
    for number, node in enumerate(graph.nodes):
        node.meta["module"] = "" if node.op != "call_function" else "block.mlp"
        node.meta["source"] = f"model.py:{number}: x = naïve(x)" if number % 2 else ""
    inputs = (
        Input("input_ids", (3, 5), torch.int64, ("batch", "length")),
        Input("factor", value=2.5),
    )
    in_spec = pytree.tree_structure(((0,), {"factor": 1}))
    out_spec = pytree.tree_structure({"logits": 0, "first": 1} if result is None else result)
    signature = Signature(
        inputs, in_spec, out_spec, {"batch": (1, None), "length": (1, 5)}, ("input_ids", "factor", "labels")
    )
    propagate(graph, signature, tensors)
    return Program(
        graph,
        tensors,
        signature,
        name="toy",
        notes=(Note("other", "size of head is fixed"),),
        origin=HuggingFaceOrigin("Toy", {"sizes": [1, 2], "nested": {"a": None, "b": (1.5, True)}}, "a/b"),
        history=("lemon{width=2}",),
    )


def descended(generations: int = 2) -> Program:
    """A program with a lineage; all generations share one graph but for their widths."""
    program = mlp(8)
    for generation in range(generations):
        lineage = Lineage(
            f"coalesce{{width=2,generation={generation}}}",
            program.skeleton(),
            {"hidden": (0, 0, 1, 1, 2, 2, 3, 3)},
            {"layers": (0, 0)},
            {"pairing": "adjacent", "axes": {"mlp": (0, 0, 1)}},
            "up" if generation % 2 else "down",
        )
        program = mlp(8 if generation else 4, seed=generation + 1).replace(lineage=lineage)
    return program


def run(program: Program, ids: torch.Tensor) -> Any:
    """The program's result in eval fashion: dropout and drop-path off."""
    values: Mapping[str, torch.Tensor] = program.tensors
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    for node in graph.nodes:
        if node.target in (aten.dropout.default, ops.drop_path):
            node.args = (*node.args[:-1], False)
    environment: dict[fx.Node, Any] = {}
    leaves = iter([ids, 2.5])
    for node in graph.nodes:
        if node.op == "placeholder":
            environment[node] = next(leaves)
        elif node.op == "get_attr":
            environment[node] = values[str(node.target)]
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), environment.__getitem__)
            environment[node] = node.target(*args, **kwargs)
        else:
            result = fx.map_arg(node.args[0], environment.__getitem__)
    return pytree.tree_unflatten(list(result), program.signature.out_spec)
