"""Graphs copied with some nodes changed."""

from __future__ import annotations

import torch
from torch import fx

from mlgraph.graph.copying import copy_graph, copy_nodes

aten = torch.ops.aten


def doubled() -> fx.Graph:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(aten.mul.Tensor, (x, 2.0))
    y.meta["source"] = "model.py:3"
    graph.output((y,))
    return graph


def run(graph: fx.Graph, x: torch.Tensor) -> torch.Tensor:
    return fx.GraphModule(torch.nn.Module(), graph)(x)[0]  # type: ignore[no-any-return]


def test_a_copy_computes_the_same_and_keeps_what_is_said_of_its_nodes() -> None:
    graph = doubled()
    copied = copy_graph(graph)
    assert torch.equal(run(copied, torch.ones(3)), torch.full((3,), 2.0))
    assert [node.name for node in copied.nodes] == [node.name for node in graph.nodes]
    assert [node.meta.get("source") for node in copied.nodes] == [None, "model.py:3", None]
    assert not {*copied.nodes} & {*graph.nodes}


def test_changes_are_made_to_the_copy_alone() -> None:
    graph = doubled()

    def triple(node: fx.Node, new: fx.Node) -> None:
        if node.op == "call_function":
            new.args = (new.args[0], 3.0)
            new.meta["source"] = "elsewhere"

    assert torch.equal(run(copy_graph(graph, triple), torch.ones(3)), torch.full((3,), 3.0))
    assert torch.equal(run(graph, torch.ones(3)), torch.full((3,), 2.0))
    assert [node.meta.get("source") for node in graph.nodes][1] == "model.py:3"


def test_some_nodes_of_a_graph_are_copied_into_another() -> None:
    graph = doubled()
    into = fx.Graph()
    copies = copy_nodes((node for node in graph.nodes if node.op != "output"), into)
    into.output((copies[next(node for node in graph.nodes if node.op == "call_function")],))
    assert torch.equal(run(into, torch.ones(3)), torch.full((3,), 2.0))
