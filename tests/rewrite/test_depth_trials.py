"""A change of depth is tried on a miniature: what goes wrong is found, the chain kept and the op named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mlgraph
from mlgraph.graph import dataflow
from mlgraph.program import Program
from mlgraph.rewrite import coarsen, refine
from mlgraph.rewrite.depth import residual
from mlgraph.rewrite.depth.residual import CopyScaling
from mlgraph.rewrite.depth.restack import _Surgery
from mlgraph.rewrite.depth_trials import check_layers
from mlgraph.rewrite.grouping import Grouping
from tests.oracles import relative_error

WIDTH = 12


class Layer(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.gain = 0.5 + number / 4
        self.register_buffer("mask", ((torch.arange(5) + number) % 3).float())

    def forward(self, h: torch.Tensor, first: torch.Tensor, literal: bool) -> torch.Tensor:
        inner = F.gelu(self.up(self.norm(h)) + first[..., :8]) * self.mask[:, None]
        return h + self.down(inner * self.gain if literal else inner)


class Deep(nn.Module):
    """Layers with a mask of their own that read what comes in; with a literal of their own, if so asked."""

    def __init__(self, literal: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(7, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(Layer(number) for number in range(6))
        self.literal = literal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = first = self.embed(x)
        for layer in self.layers:
            h = layer(h, first, self.literal)
        result: torch.Tensor = self.head(h)
        return result


@pytest.fixture(scope="module")
def captured() -> Program:
    torch.manual_seed(0)
    return mlgraph.capture(Deep().eval(), (torch.randn(3, 5, 7),), check=False)


DOWN = Grouping.adjacent(6, 2)
WAYS: dict[str, tuple[Grouping, str | None]] = {
    "pairs": (DOWN, None),
    "uneven": (Grouping((0, 0, 0, 1, 2, 2)), None),
    "halves": (Grouping.halves(6, 2), None),
    "select": (DOWN.going("select", "copy"), None),
    "pad": (DOWN.going("select", "pad"), None),
    "copy": (Grouping.adjacent(12, 2), "copy"),
    "scaled": (Grouping.adjacent(12, 2), "scaled"),
    "identity": (Grouping.halves(12, 2), "identity"),
    "some": (Grouping((0, 1, 1, 1, 2, 3, 4, 5)), "identity"),
}


@pytest.mark.parametrize("way", WAYS)
def test_right_changes_fail_no_trial(captured: Program, way: str) -> None:
    grouping, mode = WAYS[way]
    found = check_layers(captured.replace(), {"layers": grouping}, mode)
    assert (found.faults, found.unchecked) == ({}, "")


def _plus_one(grouping: Grouping) -> Any:
    return property(lambda self: tuple(tuple((b + 1) % self.fine for b in g) for g in self.members))


def _first_half(
    changed: Callable[..., Mapping[str, CopyScaling]],
) -> Callable[..., Mapping[str, CopyScaling]]:
    def wrong(*args: Any) -> Mapping[str, CopyScaling]:
        found = changed(*args)
        return dict(list(found.items())[: len(found) // 2])

    return wrong


def _wrong_exit(self: Any, index: int, block: int) -> Any:
    return self.exits[index, self.forms[index][0]], (index, 0)


def _without_affine(program: Any, wide: Any, copy: Any, noise: Any) -> Any:
    return UP_RECIPE(program, wide, refine._Copy(copy.name, copy.source, copy.transfer, None, True), noise)


def _all_count(program: Any, layers: Any, stacked: Any, counting: bool = False) -> Any:
    return GROUP_MEMBERS(program, layers, stacked)


def _shifted(program: Any, layers: Any, stacked: Any, counting: bool = False) -> Any:
    found = GROUP_MEMBERS(program, layers, stacked, counting)
    return {name: tuple(m.replace("layers.0", "layers.1") for m in group) for name, group in found.items()}


def _reordered(self: Any, place: Any, tensor: str) -> str:
    found = SOURCE(self, place, tensor)
    return found.replace("norm.weight", "norm.bias")


GROUP_MEMBERS, UP_RECIPE, SOURCE = coarsen.group_members, refine._up_recipe, _Surgery.source

# What goes wrong: where, what stands there instead, the request, and the op named.
FAULTS: dict[str, tuple[Any, str, Any, str, str]] = {
    "a sum instead of a mean": (coarsen, "_mean", lambda given: sum(given), "pairs", "layer_norm"),
    "another group": (coarsen, "group_members", _shifted, "pairs", "layer_norm"),
    "all members of what is selected": (coarsen, "group_members", _all_count, "select", "layer_norm"),
    "masks averaged": (coarsen, "constants", lambda program: frozenset(), "pairs", "unsqueeze"),
    "blocks beside one another": (_Surgery, "exit", _wrong_exit, "pairs", "linear"),
    "gains for biases": (_Surgery, "source", _reordered, "pairs", "layer_norm"),
    "copies in disorder": (_Surgery, "exit", _wrong_exit, "copy", "linear"),
    "branches that end in a bias": (residual, "_changed", _first_half(residual._changed), "identity", "add"),
    "identities unchanged": (refine, "_up_recipe", _without_affine, "identity", "linear"),
    "unscaled branches": (residual, "copies", lambda *_: ([{}, {}], None), "scaled", "add"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_change_is_caught_and_its_op_is_named(
    captured: Program, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    where, name, wrong, way, op = FAULTS[fault]
    monkeypatch.setattr(where, name, wrong)
    program = captured.replace()
    grouping, mode = WAYS[way]
    found = check_layers(program, {"layers": grouping}, mode)
    assert found.unchecked == ""
    assert list(found.faults) == ["layers"]
    nodes = {node.name: node for node in program.graph.nodes}
    reason = found.faults["layers"]
    assert reason.kind == "tried"
    assert op in str(nodes[reason.node].target), str(reason)


def test_blocks_that_only_seem_alike_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    program = mlgraph.capture(Deep(literal=True).eval(), (torch.randn(3, 5, 7),), check=False)
    assert len(program.blocks) == 0
    monkeypatch.setattr(dataflow, "_literal", lambda value: type(value).__name__)
    program = program.replace()
    (chain,) = program.blocks
    found = check_layers(program, {chain.name: Grouping.adjacent(len(chain), 2)})
    assert "not alike: aten.mul.Tensor" in str(found.faults[chain.name])


def test_a_chain_that_fails_is_kept_by_name_and_refused_by_name(
    captured: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarsen, "_mean", lambda given: sum(given))
    program = captured.replace()
    coarse = mlgraph.coalesce(program, depth=2)
    assert len(coarse.blocks[0]) == 6
    (note,) = [n for n in coarse.notes if n.kind == "kept" and n.subject == "layers"]
    assert "aten.layer_norm.default is given another layers.0.norm.weight at another depth" in str(note)
    with pytest.raises(mlgraph.AxisError, match="the layer axis layers cannot change: aten.layer_norm"):
        mlgraph.coalesce(program, axes={"layers": 2})
    assert len(mlgraph.coalesce(program, depth=2, check=False).blocks[0]) == 3


def test_one_trial_serves_one_request(captured: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured.replace()
    mlgraph.coalesce(program, depth=2)
    monkeypatch.setattr("mlgraph.rewrite.depth_trials._DepthCheck", None)
    assert len(mlgraph.coalesce(program, depth=2).blocks[0]) == 3


class Experts(nn.Module):
    """Experts whose results are added at rows of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(WIDTH, 8) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(8, WIDTH) for _ in range(2))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        rows = h.reshape(-1, WIDTH)
        out = torch.zeros_like(rows)
        at = torch.arange(rows.shape[0], device=h.device)
        for up, down in zip(self.up, self.down, strict=True):
            out.index_add_(0, at, down(F.gelu(up(rows))))
        return h + out.reshape(h.shape)


class Mixed(nn.Module):
    """Blocks that are fed with a mean of what the one before gave and of what comes in."""

    def __init__(self, block: Callable[[], nn.Module], mixes: bool) -> None:
        super().__init__()
        self.embed, self.head, self.mixes = nn.Linear(7, WIDTH), nn.Linear(WIDTH, 3), mixes
        self.layers = nn.ModuleList(block() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = first = self.embed(x)
        for layer in self.layers:
            h = layer(0.5 * h + 0.5 * first if self.mixes else h)
        result: torch.Tensor = self.head(h)
        return result


def test_experts_added_at_rows_can_be_made_identities() -> None:
    model, x = Mixed(Experts, False).double().eval(), torch.randn(3, 5, 7, dtype=torch.float64)
    program = mlgraph.capture(model, (x,), check=False)
    grown = mlgraph.decoalesce(program, depth=2, depth_mode="identity")
    assert len(grown.blocks[0]) == 8
    with torch.no_grad():
        assert relative_error(mlgraph.emit(grown).eval()(x), model(x)) <= 1e-12


def test_blocks_fed_with_a_mean_of_the_stream_and_a_fixed_value_are_one_chain() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, WIDTH))

    program = mlgraph.capture(Mixed(block, True).eval(), (torch.randn(3, 5, 7),), check=False)
    assert [(chain.name, len(chain)) for chain in program.blocks] == [("layers", 4)]
    assert check_layers(program, {"layers": Grouping.adjacent(4, 2)}).faults == {}


class Filled(Layer):
    """Puts its two halves into memory that nothing was written to."""

    def forward(self, h: torch.Tensor, first: torch.Tensor, literal: bool) -> torch.Tensor:
        inner = self.up(self.norm(h))
        joined = inner.new_empty(inner.shape)
        joined[..., :4], joined[..., 4:] = F.gelu(inner[..., 4:]), inner[..., :4]
        return h + self.down(joined)


def test_memory_that_nothing_was_written_to_is_no_difference() -> None:
    torch.manual_seed(0)
    model = Deep()
    model.layers = nn.ModuleList(Filled(0) for _ in range(4))
    program = mlgraph.capture(model.eval(), (torch.randn(3, 5, 7),))
    coarse = mlgraph.coalesce(program, depth=2)
    assert len(coarse.blocks[0]) == 2
    mean = (model.layers[0].up.weight + model.layers[1].up.weight) / 2
    assert torch.equal(coarse.tensors["layers.0.up.weight"], mean)
