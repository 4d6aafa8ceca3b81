"""Chains of repeated blocks: the expected ones for each family, by structure alone, and near misses."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import nn

import mlgraph
from mlgraph.blocks.find import find_blocks
from mlgraph.capture.model import capture
from mlgraph.graph.dataflow import Dataflow
from mlgraph.program import Program
from mlgraph.program.block_table import BlockTable, Chain
from mlgraph.program.numbering import stretches
from mlgraph.rewrite.depth.restack import restack
from tests import captured as known
from tests.selection import some
from tests.strategies import THOROUGH, Shape, transformers

CHAINS = {
    "bert": {"encoder.layer": (4, 1)},
    "gpt2": {"transformer.h": (4, 1)},
    "llama": {"model.layers": (4, 1)},
    "qwen3": {"model.layers": (4, 1)},
    "gemma2": {"model.layers": (2, 2)},
    "gemma3": {"model.layers": (4, 2)},
    "mixtral": {"model.layers": (4, 1)},
    "t5": {"encoder.block": (4, 1), "decoder.block": (4, 1)},
    "bart": {"model.encoder.layers": (4, 1), "model.decoder.layers": (4, 1)},
    "whisper": {"model.encoder.layers": (4, 1), "model.decoder.layers": (4, 1)},
    "vit": {"vit.layers": (4, 1)},
    "dinov2": {"encoder.layer": (4, 1)},
    "clip": {"text_model.encoder.layers": (4, 1), "vision_model.encoder.layers": (4, 1)},
    "deit": {"blocks": (4, 1)},
    # In the last stage one window is the whole map, and nothing is shifted.
    "swin": {"layers.0.blocks": (2, 2), "layers.1.blocks": (4, 1)},
    "torch-encoder": {"encoder.layers": (4, 1)},
    "fused-gpt": {"blocks": (4, 1)},
}


@functools.cache
def captured(name: str) -> Program:
    return known.captured(name).program


def summary(table: BlockTable) -> dict[str, tuple[int, int]]:
    return {chain.name: (len(chain), chain.period) for chain in table}


def check_consistent(program: Program, chain: Chain) -> None:
    """What every chain must satisfy, whatever the model."""
    nodes = {node.name: node for node in program.graph.nodes}
    for block, after in zip(chain.blocks, chain.blocks[1:], strict=False):
        assert after.entry == block.exit
        assert not set(block.nodes) & set(after.nodes)
    for block in chain:
        inside = set(block.nodes)
        assert block.entry not in inside
        assert block.exit in inside
        assert set(block.aligned) <= inside
        read = {arg.name for name in block.nodes for arg in nodes[name].all_input_nodes}
        assert read - inside <= {block.entry, *block.sides}
        assert set(block.sides) == set(chain.blocks[0].sides)
        assert len(block.aligned) == len(chain.blocks[0].aligned)
    for column in zip(*(block.aligned for block in chain), strict=True):
        assert len({nodes[name].op for name in column}) == 1
        assert len({str(nodes[name].target) for name in column if nodes[name].op == "call_function"}) <= 1
    for column in chain.columns():
        assert len({program.tensors[name].shape for name in column}) == 1


@pytest.mark.parametrize("name", some(CHAINS))
def test_chains_of_families(name: str) -> None:
    program = captured(name)
    assert summary(program.blocks) == CHAINS[name]
    for chain in program.blocks:
        check_consistent(program, chain)
        for block in chain:
            assert all(chain.block_of(tensor) == block.index for tensor in block.tensors)


def test_convolution_stages_are_chains() -> None:
    program = captured("convnext")
    assert {chain.name for chain in program.blocks} == {f"stages.{stage}.blocks" for stage in range(4)}


@pytest.mark.slow
def test_decoder_reads_the_encoder_as_a_side_input() -> None:
    program = captured("t5")
    encoder, decoder = program.blocks
    nodes = {node.name: node for node in program.graph.nodes}
    reached = {nodes[encoder.blocks[-1].exit]}
    for node in program.graph.nodes:
        if reached & set(node.all_input_nodes):
            reached.add(node)
    assert any(nodes[side] in reached for side in decoder.blocks[0].sides)
    assert not any(nodes[side] in reached for side in encoder.blocks[0].sides)


@pytest.mark.slow
def test_a_table_read_by_all_layers_belongs_to_no_block() -> None:
    owned = {tensor for chain in captured("t5").blocks for block in chain for tensor in block.tensors}
    tables = {name for name in captured("t5").tensors if "relative_attention_bias" in name}
    assert tables
    assert not tables & owned


def test_layers_that_share_their_tensors_are_a_chain() -> None:
    chain = captured("shared-layers").blocks[0]
    assert len(chain) == 4
    assert chain.shared
    assert not chain.blocks[0].tensors


class Residual(nn.Module):
    def __init__(self, scale: float = 1.0, gate: bool = False, size: int = 6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.gate = nn.Linear(size, size) if gate else None
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(torch.tanh(self.up(self.norm(x))))
        if self.gate is not None:
            y = y * self.gate(x).sigmoid()
        return x + self.scale * y


class Stack(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Functional(nn.Module):
    """Parameters of numbered names, no modules."""

    def __init__(self, depth: int = 4, size: int = 6) -> None:
        super().__init__()
        self.depth = depth
        for layer in range(depth):
            self.register_parameter(f"w{layer}", nn.Parameter(torch.randn(size, size)))
            self.register_parameter(f"b{layer}", nn.Parameter(torch.randn(size)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in range(self.depth):
            w, b = getattr(self, f"w{layer}"), getattr(self, f"b{layer}")
            x = x + torch.tanh(x @ w + b)
        return x


class Skipping(nn.Module):
    """Layers with long skips from the first half to the second, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Residual() for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for layer in self.layers[:3]:
            x = layer(x)
            kept.append(x)
        for layer in self.layers[3:]:
            x = layer(x + kept.pop())
        return x


def small(model: nn.Module) -> Program:
    return capture(model, (torch.randn(3, 5, 6),))


def test_parameters_without_modules() -> None:
    table = small(Functional()).blocks
    assert [len(chain) for chain in table] == [4]
    assert [block.tensors for block in table[0]] == [(f"w{i}", f"b{i}") for i in range(4)]


def test_layers_that_are_not_numbered() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = Residual(), Residual(), Residual()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.middle(self.first(x)))

    chain = small(Named()).blocks[0]
    assert len(chain) == 3
    assert chain.prefix is None
    assert [block.tensors[0] for block in chain] == [
        "first.norm.weight",
        "middle.norm.weight",
        "last.norm.weight",
    ]


def test_the_like_part_of_a_mixed_stack() -> None:
    table = small(Stack(Residual(), *(Residual(gate=True) for _ in range(4)))).blocks
    assert [list(chain.numbers) for chain in table] == [[1, 2, 3, 4]]
    assert table.rejected == ("layers.0-1 differ: only layers.1 has gate.weight",)


def test_two_chains_in_one_list_have_two_names() -> None:
    layers = [*(Residual(0.5) for _ in range(3)), Residual(gate=True), *(Residual(0.5) for _ in range(2))]
    assert summary(small(Stack(*layers)).blocks) == {"layers[0:3]": (3, 1), "layers[4:6]": (2, 1)}


def test_layers_with_different_constants_are_no_chain() -> None:
    table = small(Stack(Residual(0.5), Residual(0.25), Residual(0.125))).blocks
    assert not len(table)
    assert table.rejected == ("layers.0-2 differ: mul constant 0.5 vs 0.25",)


def test_alternating_constants_are_a_chain_of_period_two() -> None:
    table = small(Stack(*(Residual(scale) for scale in (0.5, 0.25) * 3))).blocks
    assert summary(table) == {"layers": (3, 2)}


def test_long_skips_cut_the_second_half() -> None:
    table = small(Skipping()).blocks
    assert [list(chain.numbers) for chain in table] == [[0, 1, 2]]
    assert table[0].blocks[0].exit not in table[0].blocks[0].extras


def test_equal_layers_inside_a_block_are_not_a_chain() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x
            for step in self.steps:
                y = torch.tanh(step(y))
            return x + y

    assert summary(small(Stack(*(Inner() for _ in range(4)))).blocks) == {"layers": (4, 1)}


def test_a_single_block_is_no_chain() -> None:
    assert not len(small(Stack(Residual())).blocks)


def test_buffers_that_differ_make_layers_differ() -> None:
    class Masked(Residual):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.register_buffer("window", (torch.arange(6) < width).float(), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.window

    alike = small(Stack(Masked(3), Masked(3), Masked(3), Masked(3))).blocks
    assert summary(alike) == {"layers": (4, 1)}
    alternating = small(Stack(Masked(3), Masked(5), Masked(3), Masked(5))).blocks
    assert summary(alternating) == {"layers": (2, 2)}


@given(shape=transformers(even=False))
@settings(max_examples=40 if THOROUGH else 2)
def test_random_transformers(shape: Shape) -> None:
    program = capture(shape.build(), (shape.inputs(),))
    table = find_blocks(program)
    count = shape.depth // shape.period
    if count < 2:
        assert not len(table)
        return
    assert [(len(chain), chain.period) for chain in table] == [(count, shape.period)]
    check_consistent(program, table[0])
    assert all(table[0].block_of(tensor) == block.index for block in table[0] for tensor in block.tensors)


@pytest.mark.bench
def test_analysis_time_grows_linearly() -> None:
    """48 layers against 12: a little over four times the time."""
    seconds = {}
    for depth in (12, 48):
        program = restack(captured("llama"), {"model.layers": tuple(range(4)) * (depth // 4)}).program
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            table = find_blocks(program)
            best = min(best, time.process_time() - start)
        assert summary(table) == {"model.layers": (depth, 1)}
        seconds[depth] = best
    assert seconds[48] < 8 * seconds[12]


@pytest.mark.slow
def test_dominators_agree_with_networkx() -> None:
    networkx = pytest.importorskip("networkx")
    flow = Dataflow(captured("t5"))
    for source in [node for node in flow.nodes if str(node.target).startswith("aten.embedding.")]:
        parent = flow.dominators(source)
        graph = networkx.DiGraph()
        graph.add_node(source)
        graph.add_edges_from((arg, node) for node in parent for arg in flow.data[node] if arg in parent)
        theirs = networkx.immediate_dominators(graph, source)
        assert {n: p for n, p in parent.items() if n is not source} == {
            n: p for n, p in theirs.items() if n is not source
        }


def test_the_table_prints_chains_and_near_misses() -> None:
    text = str(small(Stack(Residual(0.5), *(Residual() for _ in range(3)))).blocks)
    assert text.splitlines()[0].split()[:2] == ["chain", "blocks"]
    assert text.splitlines()[1].split()[:3] == ["layers", "×3", "1"]
    assert "alike, but in no chain\n- layers.0-1 differ" in text


def test_names_that_count_up_mark_where_blocks_begin() -> None:
    right = [["l.0.attention", "l.0.mlp"], ["l.1.attention", "l.1.mlp"]]
    shifted = [["l.0.mlp", "l.1.attention"], ["l.1.mlp", "l.2.attention"]]
    assert stretches(right) == [(0, 2)]
    assert stretches(shifted) == []
    pairs = [[f"l.{2 * i}.w", f"l.{2 * i + 1}.w"] for i in range(3)]
    assert stretches(pairs) == [(0, 3)]


class Alternating(nn.Module):
    """Layers that differ in a constant alone: every second one sees the mirrored sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 8)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in "1234"
        )
        for index in range(4):
            order = torch.arange(5) if index % 2 else torch.arange(5).flip(0)
            self.register_buffer(f"order{index}", order, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for index, layer in enumerate(self.layers):
            x = x + layer(x[:, getattr(self, f"order{index}")])
        return x


def test_layers_that_differ_in_a_constant_keep_their_period_without_weights(tmp_path: Path) -> None:
    program = mlgraph.capture(Alternating(), (torch.randint(17, (3, 5)),))
    (chain,) = program.blocks
    assert (chain.period, len(chain)) == (2, 2)
    both = mlgraph.coalesce(program, depth=2, width=2)
    assert {name.split(".")[1] for name in both.tensors if name.startswith("layers.")} == {"0", "1"}
    assert mlgraph.coalesce(program.skeleton(), depth=2, width=2).tensors.keys() == both.tensors.keys()
    mlgraph.save(both, tmp_path / "both.pt")
    back = mlgraph.decoalesce(mlgraph.load(tmp_path / "both.pt"))
    assert back.tensors.keys() == program.tensors.keys()
    for name, tensor in mlgraph.decoalesce(both).tensors.items():
        assert torch.equal(back.tensors[name], tensor)


class Staged(nn.Module):
    """The last block of a stage is like the next stage's stem, in another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"blocks": nn.ModuleList([layer(), layer()])})
        self.second = nn.ModuleDict({"stem": layer(), "head": nn.Linear(8, 8)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.first["blocks"]:
            x = x + block(x)
        x = x + self.second["stem"](x)
        return self.second["head"](x)


def layer() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))


def test_a_chain_does_not_leave_the_module_that_numbers_it() -> None:
    (chain,) = mlgraph.capture(Staged(), (torch.randn(3, 8),)).blocks
    assert (chain.name, len(chain)) == ("first.blocks", 2)
