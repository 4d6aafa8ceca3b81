"""Stochastic depth: every way of writing it becomes one op that follows the mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mlgraph import capture, emit
from mlgraph.emit.runtime import DropPath
from mlgraph.graph import ops

P = 0.3


def bernoulli(x: torch.Tensor) -> torch.Tensor:
    draw = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - P)
    return x * draw.div_(1 - P)


def floored(x: torch.Tensor) -> torch.Tensor:
    draw = 1 - P + torch.rand((x.shape[0], 1, 1), dtype=x.dtype, device=x.device)
    return x.div(1 - P) * draw.floor_()


def compared(x: torch.Tensor) -> torch.Tensor:
    draw = (torch.rand(x.shape[0], 1, 1) < 1 - P).to(x.dtype)
    return (draw * (1 / (1 - P))) * x


def per_channel(x: torch.Tensor) -> torch.Tensor:
    draw = torch.empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - P) / (1 - P)
    return draw * x


class Residual(nn.Module):
    def __init__(self, drop: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return x + (self.drop(y) if self.training else y)


@pytest.mark.parametrize(
    ("drop", "dims"), [(bernoulli, (0,)), (floored, (0,)), (compared, (0,)), (per_channel, (0, 2))]
)
def test_is_recognised(drop: Callable[[torch.Tensor], torch.Tensor], dims: tuple[int, ...]) -> None:
    model, x = Residual(drop), torch.randn(6, 3, 4)
    program = capture(model, (x,))
    (node,) = [node for node in program.graph.nodes if node.target is ops.drop_path]
    assert node.args[1] == pytest.approx(P)
    assert tuple(node.args[2]) == dims
    assert not [n for n in program.graph.nodes if "rand" in str(n.target) or "bernoulli" in str(n.target)]
    module = emit(program)
    torch.testing.assert_close(module.eval()(x), model.eval()(x))
    module.train()
    assert not torch.equal(module(x), module(x))
    assert any(isinstance(part, DropPath) for part in module.modules())
    assert list(map(str, program.notes)) == ["input x is fixed in dim 2 at 4"]


def test_drops_whole_samples_and_keeps_the_mean() -> None:
    x = torch.ones(4000, 3, 2)
    dropped = ops.drop_path(x, P, [0], True)
    values = dropped[:, 0, 0]
    assert torch.equal(dropped, values[:, None, None].expand_as(dropped))
    assert values.unique().tolist() == [0.0, pytest.approx(1 / (1 - P))]
    assert float(values.mean()) == pytest.approx(1.0, abs=0.05)
    assert ops.drop_path(x, P, [0], False) is x


def unscaled(x: torch.Tensor) -> torch.Tensor:
    return x * torch.empty(x.shape[0], 1, 1).bernoulli_(1 - P)


def test_a_draw_that_changes_the_mean_is_not_taken_for_it() -> None:
    model, x = Residual(unscaled), torch.randn(64, 3, 4)
    program = capture(model, (x,))
    assert not [node for node in program.graph.nodes if node.target is ops.drop_path]
    assert any("training behaviour other than" in str(note) for note in program.notes)
    torch.testing.assert_close(emit(program).eval()(x), model.eval()(x))
