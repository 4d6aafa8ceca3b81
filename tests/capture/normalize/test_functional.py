"""Writes and regions without gradients: what they become, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mlgraph import capture, emit
from mlgraph.graph.interpret import run
from mlgraph.program import Program

aten = torch.ops.aten


def targets(program: Program) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


class Rotary(nn.Module):
    def forward(self, frequencies: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            angles = frequencies[:, :, None] @ positions[:, None, :]
        return frequencies.sum() + angles


def test_a_region_without_gradients_has_none() -> None:
    model = Rotary()
    inputs = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    program = capture(model, tuple(inputs))
    assert aten.matmul.default not in targets(program)
    module = emit(program)
    found = torch.autograd.grad(module(*inputs).sum(), inputs, allow_unused=True)
    expected = torch.autograd.grad(model(*inputs).sum(), inputs, allow_unused=True)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1] is None
    assert expected[1] is None


class Scaled(nn.Module):
    """Multiplies by what it works out of a tensor without gradients."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        scale = torch.tensor([1.0, 2.0, 3.0])
        if kind == "parameter":
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale.requires_grad_(kind == "buffer with gradients"))
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "written buffer":
            self.scale.copy_(self.scale + x.mean())
        with torch.no_grad():
            y = (self.scale * 2).cos()
        return x * y


@pytest.mark.parametrize(
    ("kind", "detached"),
    [("buffer", 0), ("parameter", 1), ("buffer with gradients", 1), ("written buffer", 1)],
)
def test_what_no_gradient_reaches_is_not_detached(kind: str, detached: int) -> None:
    program = capture(Scaled(kind), (torch.randn(5, 3),))
    assert targets(program).count(torch.ops.aten.detach.default) == detached


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.clone().add_(1).mul_(2),
        lambda x: torch.zeros_like(x).copy_(x),
        lambda x: torch.zeros(3, 4).index_put_((torch.tensor([0]),), x[:1]),
        lambda x: _assigned(x),
        lambda x: (y := x * 1, y[:, 0].mul_(3), y + 1)[-1],
        lambda x: (y := (x * 1).t().contiguous(), y[0].add_(1), y[1:].fill_(x.sum()), y.t() + 1)[-1],
    ],
)
def test_in_place_ops_on_fresh_values_are_functional(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class Changing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(x)

    x = torch.randn(3, 4)
    program = capture(Changing(), (x,))
    assert not [t for t in targets(program) if t._schema.is_mutable]
    torch.testing.assert_close(run(program, kwargs={"x": x}), change(x))


@pytest.mark.parametrize("late", [lambda y: y + 1, lambda y: y[0] * 2])
def test_a_write_to_what_may_be_a_view_is_seen_by_later_readers(
    late: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    class Changing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 1
            y.contiguous().add_(1)
            return late(y)

    x = torch.randn(3, 4)
    torch.testing.assert_close(run(capture(Changing(), (x,)), kwargs={"x": x}), Changing()(x))


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(x.shape[0], 6)
    y[:, 1:5] = x
    return y


class Mutating(nn.Module):
    """A running maximum in a buffer; what it reads must not be merged across the write."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.seen * 2
        self.seen.copy_(torch.maximum(self.seen, x.detach().amax(0)))
        return x + before + self.seen * 2


def test_a_buffer_is_written_while_training() -> None:
    x = torch.randn(5, 4).abs()
    module = emit(capture(Mutating(), (x,))).train()
    reference = Mutating()
    with torch.no_grad():
        module.seen.zero_()
    torch.testing.assert_close(module(x), reference(x))
    torch.testing.assert_close(module.seen, reference.seen)
