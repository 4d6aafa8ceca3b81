"""What differs from block to block and is no weight: kept by period, or the first is taken, with a note."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import mlgraph
from tests.rewrite.depth.stacks import Layer, Stack, difference, example

LENGTH = 7
Make = Callable[[int], torch.Tensor]


def near(layer: int) -> torch.Tensor:
    """Every second layer sees neighbours alone."""
    distance = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    return (distance <= 1) | torch.full((), layer % 2 == 0)


class Masked(Layer):
    """Mixes positions by a table of its own, kept as ``kind`` says."""

    def __init__(self, table: torch.Tensor, kind: str) -> None:
        super().__init__(lambda s, h: h + s.branch(s.mixed(h)))
        self.added = bool((table <= 0).all())
        if kind == "parameter":
            self.table = nn.Parameter(table, requires_grad=False)
        else:
            self.register_buffer("table", table, persistent=kind == "persistent")

    def mixed(self, h: torch.Tensor) -> torch.Tensor:
        if not self.table.is_floating_point():
            return h[:, self.table]
        scores = h @ h.transpose(1, 2)
        weights = (scores + self.table).softmax(-1) if self.added else scores.softmax(-1) * self.table
        return weights @ h


def zero_one(layer: int) -> torch.Tensor:
    return near(layer).double()


def infinite(layer: int) -> torch.Tensor:
    return torch.zeros(LENGTH, LENGTH, dtype=torch.float64).masked_fill(~near(layer), -math.inf)


def slopes(layer: int) -> torch.Tensor:
    positions = torch.arange(LENGTH, dtype=torch.float64)
    return -(2.0**-layer) * (positions[:, None] - positions).abs()


def order(layer: int) -> torch.Tensor:
    return torch.arange(LENGTH).roll(layer)


def build(make: Make, kind: str, depth: int) -> Stack:
    with torch.random.fork_rng([]):
        torch.manual_seed(depth)
        return Stack([Masked(make(layer), kind) for layer in range(depth)]).double().eval()


@pytest.mark.parametrize(
    ("make", "kind"),
    [(zero_one, "persistent"), (zero_one, "parameter"), (infinite, "persistent"), (infinite, "parameter")],
)
def test_masks_that_alternate_give_blocks_of_two_layers(make: Make, kind: str) -> None:
    model = build(make, kind, 4)
    program = mlgraph.capture(model, (example(),))
    assert [(len(chain), chain.period) for chain in program.blocks] == [(2, 2)]
    coarse = mlgraph.coalesce(program, depth=2)
    expected = build(make, kind, 2)
    expected.load_state_dict(coarse.state_dict())
    for layer in range(2):
        assert torch.equal(coarse.tensors[f"layers.{layer}.table"], make(layer))
        mean = (model.layers[layer].up.weight + model.layers[layer + 2].up.weight) / 2
        assert torch.equal(coarse.tensors[f"layers.{layer}.up.weight"], mean)
    assert difference(coarse, mlgraph.capture(expected, (example(),))) <= 1e-12
    skeleton = mlgraph.coalesce(program.skeleton(), depth=2)
    assert skeleton.tensors.keys() == coarse.tensors.keys()


def test_tables_that_differ_in_every_layer_are_selected_with_a_note() -> None:
    program = mlgraph.capture(build(slopes, "persistent", 4), (example(),))
    coarse = mlgraph.coalesce(program, depth=2)
    assert torch.equal(coarse.tensors["layers.1.table"], slopes(2))
    assert any(n.kind == "approximate" and n.subject == "layers.0.table" for n in coarse.notes)


@pytest.mark.parametrize("kind", ["persistent", "parameter", "constant"])
def test_orders_that_differ_in_every_layer_are_selected_with_a_note(kind: str) -> None:
    program = mlgraph.capture(build(order, kind, 4), (example(),))
    assert [(len(chain), chain.period) for chain in program.blocks] == [(4, 1)]
    coarse = mlgraph.coalesce(program, depth=2)
    tables = [coarse.tensors[name] for name in coarse.tensors if name.endswith("table")]
    assert [table.tolist() for table in tables] == [order(0).tolist(), order(2).tolist()]
    assert any(n.kind == "approximate" and n.subject == "layers.0.table" for n in coarse.notes)


def test_statistics_are_averaged_and_counters_are_not() -> None:
    class Counted(Layer):
        def __init__(self, layer: int) -> None:
            super().__init__(lambda s, h: h + s.statistics(s.branch(h).transpose(1, 2)).transpose(1, 2))
            self.statistics = nn.BatchNorm1d(6)
            self.statistics.running_mean.fill_(layer)
            self.statistics.num_batches_tracked.fill_(layer)

    model = Stack([Counted(layer) for layer in range(4)]).double().eval()
    coarse = mlgraph.coalesce(mlgraph.capture(model, (example(),)), depth=2)
    assert torch.equal(coarse.tensors["layers.1.statistics.running_mean"], torch.full((6,), 2.5).double())
    assert coarse.tensors["layers.1.statistics.num_batches_tracked"] == 2


def test_weights_of_complex_numbers_are_averaged_and_infinite_ones_are_not() -> None:
    class Spectral(Layer):
        def __init__(self, layer: int) -> None:
            super().__init__(lambda s, h: h + (h.to(torch.complex128) @ s.filter).real + s.bias.exp())
            self.filter = nn.Parameter(torch.randn(6, 6, dtype=torch.complex128))
            self.bias = nn.Parameter(
                torch.tensor([0.0, -math.inf] if layer % 2 else [-math.inf, 0.0]).repeat(3)
            )

    model = Stack([Spectral(layer) for layer in range(4)]).eval()
    for module in (model.inp, model.out):
        module.double()
    coarse = mlgraph.coalesce(mlgraph.capture(model, (example(),)), depth=2)
    first, second = (model.layers[layer].filter for layer in (0, 1))
    assert torch.equal(coarse.tensors["layers.0.filter"], (first + second) / 2)
    assert torch.equal(coarse.tensors["layers.0.bias"], model.layers[0].bias)
