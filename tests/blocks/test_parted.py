"""Layers that lie in one tensor, and layers that a chain leaves out: named, not passed over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mlgraph
from tests.rewrite.depth.stacks import Layer, Stack, example


class Scaled(Stack):
    """Branches scaled by one number per layer, all in one parameter."""

    def __init__(self) -> None:
        super().__init__([Layer(lambda s, h: h + s.branch(h)) for _ in range(4)])
        self.scales = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inp(x)
        for index, layer in enumerate(self.layers):
            h = h + self.scales[index] * layer.branch(h)
        return self.out(h)


def test_numbers_of_layers_in_one_parameter_are_named() -> None:
    program = mlgraph.capture(Scaled().double().eval(), (example(),))
    assert len(program.blocks) == 0
    with pytest.raises(mlgraph.MlgraphError, match=r"scales holds 4 layers in one tensor"):
        mlgraph.coalesce(program, depth=2)


def test_a_layer_left_out_is_noted() -> None:
    plain, doubled = (lambda s, h: h + s.branch(h)), (lambda s, h: h + 2 * s.branch(h))
    model = Stack([Layer(doubled), *(Layer(plain) for _ in range(4))]).double().eval()
    coarse = mlgraph.coalesce(mlgraph.capture(model, (example(),)), depth=2)
    assert any(note.kind == "kept" and note.text.startswith("layers.0-1 differ") for note in coarse.notes)
