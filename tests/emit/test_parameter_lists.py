"""Layers whose parameters lie in lists and dicts of parameters, beside modules or in their place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlgraph import capture, coalesce, decoalesce, emit

WIDTH = 8


class Layers(nn.Module):
    """Four residual layers; ``layer`` runs one of them."""

    def __init__(self, make: Callable[[nn.Module], Callable[[int, torch.Tensor], torch.Tensor]]) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.layer = [make(self)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inp(x)
        for index in range(4):
            h = h + self.layer[0](index, h)
        return self.out(h)


def matrices(rows: int, columns: int) -> list[torch.Tensor]:
    return [torch.randn(rows, columns) / 3 for _ in range(4)]


def in_lists(model: nn.Module) -> Callable[[int, torch.Tensor], torch.Tensor]:
    model.up = nn.ParameterList(matrices(WIDTH, 12))
    model.down = nn.ParameterList(matrices(12, WIDTH))
    return lambda i, h: torch.tanh(h @ model.up[i]) @ model.down[i]


def in_a_dict(model: nn.Module) -> Callable[[int, torch.Tensor], torch.Tensor]:
    model.w = nn.ParameterDict({f"w{i}": w for i, w in enumerate(matrices(WIDTH, WIDTH))})
    return lambda i, h: torch.tanh(h @ model.w[f"w{i}"])


def in_a_list_of_dicts(model: nn.Module) -> Callable[[int, torch.Tensor], torch.Tensor]:
    pairs = zip(matrices(WIDTH, 12), matrices(12, WIDTH), strict=True)
    model.w = nn.ModuleList([nn.ParameterDict({"up": up, "down": down}) for up, down in pairs])
    return lambda i, h: torch.tanh(h @ model.w[i]["up"]) @ model.w[i]["down"]


def in_a_list_of_lists(model: nn.Module) -> Callable[[int, torch.Tensor], torch.Tensor]:
    pairs = zip(matrices(WIDTH, 12), matrices(12, WIDTH), strict=True)
    model.w = nn.ModuleList([nn.ParameterList(pair) for pair in pairs])
    return lambda i, h: torch.tanh(h @ model.w[i][0]) @ model.w[i][1]


def beside_modules(model: nn.Module) -> Callable[[int, torch.Tensor], torch.Tensor]:
    model.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(4)])
    model.gains = nn.ParameterList([torch.rand(WIDTH) for _ in range(4)])
    return lambda i, h: model.gains[i] * torch.tanh(model.layers[i](h))


def adapters_of_one_layer(model: nn.Module) -> Callable[[int, torch.Tensor], torch.Tensor]:
    model.one = nn.Linear(WIDTH, WIDTH)
    model.a, model.b = nn.ParameterList(matrices(2, WIDTH)), nn.ParameterList(matrices(WIDTH, 2))
    return lambda i, h: torch.tanh(model.one(h) + F.linear(F.linear(h, model.a[i]), model.b[i]))


KINDS = [in_lists, in_a_dict, in_a_list_of_dicts, in_a_list_of_lists, beside_modules, adapters_of_one_layer]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_bare_parameters(kind: Callable[..., Callable[[int, torch.Tensor], torch.Tensor]]) -> None:
    torch.manual_seed(0)
    model = Layers(kind).double().eval()
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    program = capture(model, (x,))
    module = emit(program)
    torch.testing.assert_close(module(x), model(x))
    assert list(module.state_dict()) == list(model.state_dict())
    (chain,) = program.blocks
    assert len(chain) == 4
    small = coalesce(program, depth=2, width=2)
    assert [len(c) for c in small.blocks] == [2]
    coarse = emit(coalesce(program, width=2))(x)
    torch.testing.assert_close(emit(decoalesce(coalesce(program, width=2)))(x), coarse)
    assert emit(small)(x).shape == model(x).shape
