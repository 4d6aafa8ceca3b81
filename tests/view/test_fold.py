"""Which nodes become which boxes: on random transformers, and on known architectures."""

from collections import Counter

import networkx as nx
import pytest
import torch
from hypothesis import given
from torch import nn

import mlgraph
from mlgraph.graph.dataflow import Dataflow
from mlgraph.view import view
from mlgraph.view.patterns import group, links
from mlgraph.view.scope import Wires
from tests.captured import captured
from tests.strategies import Shape, transformers


def capture(shape):
    return mlgraph.capture(shape.build(), (shape.inputs(),))


def kinds(diagram):
    return Counter(box.kind for box in diagram.boxes)


def titles(diagram, *wanted):
    return [box.title for box in diagram.boxes if box.kind in wanted]


def text(dims):
    return ["".join(piece.text for piece in dim) for dim in dims]


def check_groups(program):
    """Every op on data is in one box, and boxes form no circle."""
    flow = Dataflow(program)
    wires = Wires(flow)
    groups = group(wires, flow.nodes, [""])
    often = Counter(node for found in groups for node in found.nodes)
    for node in flow.nodes:
        if wires.is_work(node) and node in wires.varying:
            assert often[node] == 1
    assert nx.is_directed_acyclic_graph(links(wires, groups))


def check_blocks(shape, program):
    """A block shows its attention, its sums and its parameters."""
    parts = view(program).parts
    for chain in program.blocks:
        diagram = parts[chain.name]
        boxes = {box.id for box in diagram.boxes}
        assert all({edge.source, edge.target} <= boxes for edge in diagram.edges)
        found = kinds(diagram)
        assert found["attention"] == chain.period
        assert found["rotary"] == 2 * chain.period * (shape.positions == "rotary")
        assert sum(edge.residual for edge in diagram.edges) >= 2 * chain.period
        read = {tensor.name for box in diagram.boxes for tensor in box.tensors}
        assert read >= set(chain.blocks[0].tensors) & program.tensors.parameters


@pytest.mark.parametrize(
    "shape",
    [
        Shape(qkv="unbind", mlp_kind="gated", positions="rotary", manual_attention=True),
        Shape(qkv="chunk", mlp_kind="experts", positions="relative", post_norm=True),
        Shape(period=2, depth=4, qkv="split", rep=2, norm="rms", head_norm=True, layer_scale=True, tied=True),
    ],
)
def test_a_block_shows_its_attention_sums_and_parameters(shape):
    program = capture(shape)
    check_groups(program)
    check_blocks(shape, program)


@pytest.mark.thorough
@given(transformers())
def test_any_block_shows_its_attention_sums_and_parameters(shape):
    program = capture(shape)
    check_groups(program)
    check_blocks(shape, program)


def test_attention_written_out_is_one_box_like_the_op():
    by_hand, by_op = (capture(Shape(manual_attention=manual)) for manual in (True, False))
    diagrams = [next(iter(view(program).parts.values())) for program in (by_hand, by_op)]
    assert kinds(diagrams[0]) == kinds(diagrams[1])
    assert len(diagrams[0].edges) == len(diagrams[1].edges)


def test_bert():
    shown = view(captured("bert-mlm").program)
    block = shown.parts["bert.encoder.layer"]
    assert block.repeat == 4
    assert titles(block, "linear") == [
        "query",
        "key",
        "value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ]
    assert kinds(block)["norm"] == 2
    assert kinds(block)["add"] == 2
    assert titles(block, "side") == ["mask"]
    chain = shown.overview.box("chain:bert.encoder.layer")
    assert chain.repeat == 4
    into = {shown.overview.box(edge.source).title for edge in shown.overview.edges if edge.target == chain.id}
    assert into == {"embeddings.LayerNorm", "mask"}


def test_llama_shows_grouped_queries_and_rotations():
    block = view(captured("llama").program).parts["model.layers"]
    assert kinds(block)["rotary"] == 2
    assert sorted(titles(block, "side")) == ["mask", "rotary_emb"]
    query = next(box for box in block.boxes if box.title == "q_proj")
    assert text(query.tensors[0].dims) == ["kv_heads·rep·2×head_dim", "hidden"]
    assert query.tensors[0].contracts == (False, True)
    value = next(edge for edge in block.edges if block.box(edge.source).title == "v_proj")
    assert {"expand", "transpose"} <= set(value.through)
    assert text(value.dims) == ["batch", "kv_heads·rep", "sequence", "v_dim"]
    residual = [edge for edge in block.edges if edge.residual]
    assert [block.box(edge.source).kind for edge in residual] == ["input", "add"]


@pytest.mark.slow
def test_t5_has_two_chains_of_which_one_reads_the_other():
    shown = view(captured("t5").program)
    assert list(shown.parts) == ["encoder.block", "decoder.block"]
    decoder = shown.parts["decoder.block"]
    assert kinds(decoder)["attention"] == 2
    assert "encoder.final_layer_norm" in titles(decoder, "side")
    ways = {(shown.overview.box(e.source).title, e.target) for e in shown.overview.edges}
    assert ("encoder.final_layer_norm", "chain:decoder.block") in ways


def test_mixtral_shows_router_and_experts():
    block = view(captured("mixtral").program).parts["model.layers"]
    assert titles(block, "router") == ["gate"]
    assert titles(block, "experts") == ["gate_up_proj", "down_proj"]
    assert titles(block, "plumbing") == ["routing"]


def test_what_modulates_is_no_rotation_and_functional_layers_go_by_their_tensors():
    shown = view(captured("diffusion-transformer").program)
    block = shown.parts["blocks"]
    assert kinds(block)["rotary"] == 0
    assert kinds(block)["mul"] == 4
    assert "out_proj" in titles(block, "linear")


class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x, keep):
        return self.second(self.first(x)[keep])


def test_a_size_that_depends_on_data_goes_by_its_symbol():
    program = mlgraph.capture(Chosen(), (torch.randn(5, 6), torch.tensor([True, False, True, True, False])))
    shown = view(program)
    last = next(box for box in shown.overview.boxes if box.title == "second")
    assert isinstance(last.shape[0], str)
    assert last.shape[1] == 4


def test_swin_shows_its_stages():
    shown = view(captured("swin").program)
    assert {name: part.repeat for name, part in shown.parts.items()} == {
        "layers.0.blocks": 2,
        "layers.1.blocks": 4,
    }
    assert kinds(shown.parts["layers.0.blocks"])["attention"] == 2


class Stage(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.steps = nn.ModuleList(nn.Linear(width, width) for _ in range(inner))

    def forward(self, x):
        for step in self.steps:
            x = x + torch.tanh(step(self.norm(x)))
        return x


def test_modules_are_folded_where_the_whole_would_be_too_large():
    stages = nn.Sequential(*(Stage(10, inner) for inner in (2, 3, 5)))
    shown = view(mlgraph.capture(stages, (torch.randn(3, 10),)).replace(name="stages"))
    folded = titles(shown.overview, "folded", "chain")
    assert folded
    assert set(folded) <= set(shown.parts)
    assert len(shown.overview.boxes) < sum(len(part.boxes) for part in shown.parts.values())


def test_without_blocks_there_is_one_diagram():
    shown = view(
        mlgraph.capture(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)), (torch.randn(5, 6),))
    )
    assert shown.parts == {}
    assert titles(shown.overview, "linear", "activation") == ["0", "gelu", "2"]


def test_the_tree_of_modules_folds_chains_and_joins_lone_modules():
    tree = view(captured("bert-mlm").program).modules
    bert, head = tree.inner
    assert (tree.name, bert.name, head.name) == ("BertForMaskedLM", "bert", "cls.predictions")
    layer = bert.inner[1]
    assert (layer.name, layer.path, layer.repeat) == ("encoder.layer.0", "bert.encoder.layer.0", 4)
    query = layer.inner[0].inner[0].inner[0]
    assert [tensor.name for tensor in query.tensors] == [f"{query.path}.weight", f"{query.path}.bias"]
    assert text(query.tensors[0].dims) == ["heads·head_dim", "hidden"]


def test_slots_are_those_of_first_blocks():
    program = captured("bert-mlm").program
    shown = view(program)
    hidden = next(n for n, family in enumerate(shown.families) if family.name == "hidden")
    tensors = [tensor for tensor, _, _ in shown.slots[hidden]]
    assert any(".layer.0." in tensor for tensor in tensors)
    assert not any(".layer.1." in tensor for tensor in tensors)


def test_a_frozen_axis_gives_way_to_others_on_an_edge():
    shown = view(captured("bert-mlm").program)
    logits = next(edge for edge in shown.overview.edges if edge.target.startswith("output"))
    assert [shown.families[place].fate for place in logits.families] == ["frozen"]
    for edge in shown.parts["bert.encoder.layer"].edges:
        assert all(shown.families[place].fate != "frozen" for place in edge.families)


@pytest.mark.parametrize("name", ["bert-mlm", "llama", "t5", "mixtral", "swin"])
def test_titles_tell_boxes_of_parameters_apart(name):
    shown = view(captured(name).program)
    for diagram in (shown.overview, *shown.parts.values()):
        named = [
            box.title for box in diagram.boxes if box.tensors and box.kind in ("linear", "norm", "embedding")
        ]
        assert len(named) == len(set(named))
