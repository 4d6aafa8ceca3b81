"""Every op as it is written in emitted source, against the op itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import mlgraph
from mlgraph.graph.interpret import run
from tests.axes.samples import NAMES, program_of, samples

_TOGETHER = 60


def without_defaults(graph: fx.Graph) -> fx.Graph:
    """The graph as export leaves it: arguments that are the op's defaults are not given."""
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        given = list(node.args)
        declared = node.target._schema.arguments
        while given and _is_default(given[-1], declared[len(given) - 1]):
            given.pop()
        node.args = tuple(given)
    return graph


def _is_default(value: Any, declared: Any) -> bool:
    return (
        declared.has_default_value()
        and type(value) is type(declared.default_value)
        and value == declared.default_value
    )


def _faults(names: list[str], count: int) -> Iterator[str]:
    for name in names:
        for sample in samples(name, count):
            program = program_of(sample, (True,) * len(sample.operands))
            if program is None:
                continue
            without_defaults(program.graph)
            zero = torch.zeros((), dtype=torch.float64)
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    wanted = run(program, (zero,))
                except RuntimeError:
                    continue
                try:
                    found = mlgraph.emit(program).eval()(zero)
                except Exception as error:
                    yield f"{sample.name}: {type(error).__name__}: {str(error)[:150]}"
                    continue
            for a, b in zip(wanted, found, strict=True):
                if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-10, atol=1e-10, equal_nan=True):
                    yield f"{sample.name}: differs"


class Losses(nn.Module):
    """Losses at their default reduction, and a cast that asks for a memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.other = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = self.into(x), self.other(x)
        signs, weight = torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
        return (
            F.binary_cross_entropy_with_logits(a, b.sigmoid(), pos_weight=weight),
            F.kl_div(a.log_softmax(-1), b.softmax(-1)),
            F.cosine_embedding_loss(a, b, signs),
            F.margin_ranking_loss(a, b, torch.ones_like(a)),
            F.triplet_margin_loss(a, b, b.flip(0)),
            F.hinge_embedding_loss(a, signs[:, None]),
            F.poisson_nll_loss(a, b.exp()),
            F.smooth_l1_loss(a, b),
            a[:, :, None, None].to(torch.float64, memory_format=torch.channels_last),
        )


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_losses_are_emitted_as_they_are() -> None:
    torch.manual_seed(0)
    model, x = Losses().eval(), torch.randn(3, 6)
    module = mlgraph.emit(mlgraph.capture(model, (x,))).eval()
    for wanted, found in zip(model(x), module(x), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.thorough
@pytest.mark.parametrize("start", range(0, len(NAMES), _TOGETHER))
def test_ops_are_emitted_as_they_are(start: int) -> None:
    assert not list(_faults(NAMES[start : start + _TOGETHER], 4))
