"""Weights kept as direction and length: moved as the same model without weight norm is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from mlgraph import Program, capture, coalesce, decoalesce, emit
from mlgraph.program.tensors import InMemory
from mlgraph.rewrite.weight_norm import with_lengths

Wrap = Callable[[nn.Module], nn.Module]


class Layers(nn.Module):
    """Four residual layers over a positional convolution, as in speech models."""

    def __init__(self, wrap: Wrap, positions: Wrap) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, 8), nn.Linear(8, 5)
        self.positions = positions(nn.Conv1d(8, 8, 4, padding=2, groups=4))
        self.up = nn.ModuleList([wrap(nn.Linear(8, 12)) for _ in range(4)])
        self.down = nn.ModuleList([wrap(nn.Linear(12, 8)) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        x = x + torch.tanh(self.positions(x.transpose(1, 2))[:, :, :-1].transpose(1, 2))
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.tanh(up(x)))
        return self.out(x)


def old(module: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(module)


WRAPS: dict[str, tuple[Wrap, Wrap]] = {
    "rows": (parametrizations.weight_norm, parametrizations.weight_norm),
    "columns": (lambda m: parametrizations.weight_norm(m, dim=1), parametrizations.weight_norm),
    "whole": (lambda m: parametrizations.weight_norm(m, dim=None), parametrizations.weight_norm),
    "kernel": (nn.Identity().forward, lambda m: parametrizations.weight_norm(m, dim=2)),
    "old": (old, old),
}


def subjects(name: str) -> tuple[Program, Program, torch.Tensor]:
    """A model with weight norm, the same with its effective weights, and an input."""
    torch.manual_seed(0)
    model = Layers(*WRAPS[name]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.1)
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    program = capture(model, (x,))
    with torch.no_grad():
        model(x)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        elif hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
    return program, capture(plain, (x,)), x


def run(program: Program, x: torch.Tensor) -> Any:
    with torch.no_grad():
        return emit(program).eval()(x)


@pytest.mark.parametrize("name", WRAPS)
def test_as_without_weight_norm(name: str) -> None:
    program, plain, x = subjects(name)
    for change in ({"width": 2}, {"depth": 2}, {"depth": 2, "width": 2}):
        small, other = coalesce(program, **change), coalesce(plain, **change)
        torch.testing.assert_close(run(small, x), run(other, x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            run(decoalesce(small), x), run(decoalesce(other), x), rtol=1e-10, atol=1e-10
        )
    small = coalesce(program, width=2)
    assert sum(t.numel() for t in small.tensors.values()) < 0.7 * program.num_parameters()


def test_growth_keeps_the_function_and_coarsening_undoes_it_bit_for_bit() -> None:
    program, _, x = subjects("rows")
    small = coalesce(program, width=2)
    grown = decoalesce(small)
    torch.testing.assert_close(run(grown, x), run(small, x), rtol=1e-10, atol=1e-10)
    again = coalesce(grown, width=2)
    assert all(torch.equal(again.tensors[name], small.tensors[name]) for name in small.tensors)


def test_a_weight_of_zeros_has_no_length_and_stays_finite() -> None:
    program, _, x = subjects("rows")
    name = "down.1.parametrizations.weight.original1"
    values = dict(program.tensors)
    values[name] = torch.zeros_like(values[name])
    after = with_lengths(program.with_values(program.tensors.replace(InMemory(values))))
    assert not after.tensors["down.1.parametrizations.weight.original0"].any()
    module = emit(after).eval()
    module(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
