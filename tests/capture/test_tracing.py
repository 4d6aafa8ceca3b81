"""What models do in forward that tracing cannot follow, and what is told of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph import CaptureError, capture, emit
from mlgraph.capture.tracing import SizeTooComplex, Tracing, only_checks

WIDTH = 8


class Converting(nn.Module):
    """Converts a submodule on every call, as mixed-precision routers do."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.router = self.router.to(torch.float32)
        return self.router(x)


def test_a_conversion_that_changes_nothing_is_left_out() -> None:
    model = Converting()
    convert = nn.Module.to
    x = torch.randn(5, WIDTH)
    program = capture(model, (x,))
    assert torch.equal(emit(program)(x), model(x))
    assert nn.Module.to is convert
    assert list(map(str, program.notes)) == [f"input x is fixed in dim 1 at {WIDTH}"]


class Checking(nn.Module):
    """Asserts, raises and warns by values, and clamps what is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert (labels >= 0).all()
        if labels.max() >= 7:
            raise ValueError("a label is out of range")
        if (labels == 6).any():
            print("the last class occurs")
        x = self.head(x)
        if not torch.isfinite(x).all():
            x = x.clamp(-1e4, 1e4)
        return nn.functional.cross_entropy(x, labels)


def test_checks_of_values_are_left_out_by_name() -> None:
    model = Checking()
    x, labels = torch.randn(5, WIDTH), torch.tensor([0, 6, 2, 3, 4])
    program = capture(model, (x, labels))
    told = [str(note) for note in program.notes if note.kind == "traced"]
    assert len(told) == 4
    assert any("a test for values that are not finite" in t and "isfinite(x).all()" in t for t in told)
    assert any("a check of values" in t and "labels.max() >= 7" in t for t in told)
    others = torch.tensor([5, 5, 0, 1, 1])
    assert torch.allclose(emit(program)(x, others), model(x, others))


class Choosing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x == 0).all():
            return x + 1
        return x


def test_a_branch_that_computes_something_else_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"if \(x == 0\)\.all\(\):.*known only when the model runs"):
        capture(Choosing(), (torch.randn(3),))


class Experts(nn.Module):
    """Runs the experts that some token chose, one after the other."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, count)
        self.experts = nn.ModuleDict(
            {
                f"expert_{i}": nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))
                for i in range(count)
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores, chosen = self.router(x).softmax(-1).max(-1)
        chosen = nn.functional.one_hot(chosen, len(self.experts)).permute(1, 0)
        out = torch.zeros_like(x)
        for index in torch.greater(chosen.sum(-1), 0).nonzero():
            (rows,) = torch.where(chosen[index].squeeze(0))
            result = self.experts[f"expert_{index[0]}"](x[rows]) * scores[rows, None]
            out = out.index_add(0, rows, result)
        return out


def test_a_loop_over_the_experts_that_are_hit_runs_over_all() -> None:
    model = Experts()
    x = torch.randn(6, WIDTH)
    program = capture(model, (x,))
    assert any("runs over all 3" in str(note) for note in program.notes)
    one_token = x[:1].repeat(6, 1)
    for given in (x, torch.randn(6, WIDTH), one_token):
        assert torch.allclose(emit(program)(given), model(given), atol=1e-6)


def test_experts_that_are_hit_are_coarsened_in_their_inner_width() -> None:
    model = Experts()
    small = mlgraph.coalesce(capture(model, (torch.randn(6, WIDTH),)), width=2)
    assert small.state_dict()["experts.expert_1.0.weight"].shape == (6, WIDTH)


def test_a_size_of_many_terms_stops_the_trace() -> None:
    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(8):
                x = nn.functional.pad(x, (0, -x.shape[-1] % 7))
                x = x.unflatten(-1, (x.shape[-1] // 7, 7))[..., :5].flatten(-2)
            return x

    x = torch.randn(2, 30)
    shapes = {"x": {1: torch.export.Dim.AUTO}}
    with pytest.raises(SizeTooComplex), Tracing().active(limit=True):
        torch.export.export(Windows(), (x,), dynamic_shapes=shapes)


@pytest.mark.parametrize(
    ("code", "checks"),
    [
        ("assert condition", True),
        ("if condition:\n    raise ValueError(condition)", True),
        ("if condition:\n    text = 'no'\n    raise ValueError(text)", True),
        ("if condition:\n    logger.warning_once('no')", True),
        ("if condition:\n    x = 1", False),
        ("if condition:\n    raise ValueError(condition)\nelse:\n    x = 1", False),
        ("torch._assert(condition, 'no')", True),
        ("while condition:\n    pass", False),
    ],
)
def test_what_counts_as_a_check(code: str, checks: bool, tmp_path: object) -> None:
    path = f"{tmp_path}/code.py"
    with open(path, "w") as file:
        file.write(code + "\n")
    assert only_checks((path, 1)) is checks


class _ReturnsWhatItCasts(nn.Module):
    """Casts by every way of saying so, and uses what was cast and the cast."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = self.first(x)
        wide = h.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        h = h + normal.type_as(h)
        logits = self.last(h)
        return logits, nn.functional.log_softmax(logits.to(torch.float32), -1), h.type(torch.float32).sum()


@pytest.mark.parametrize("autocast", [False, True])
def test_what_was_cast_is_not_taken_for_the_cast(autocast: bool) -> None:
    """In fp32 a cast to fp32 is the tensor itself; in lower precision both are there, as in the model."""
    torch.manual_seed(0)
    model = _ReturnsWhatItCasts()
    x = torch.randn(3, 6)
    program = mlgraph.capture(model, (x,))
    if autocast:
        module = mlgraph.emit(program)
    else:
        module = mlgraph.emit(program, dtype=torch.bfloat16)
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        native, emitted = model(x), module(x)
    assert [t.dtype for t in emitted] == [t.dtype for t in native]
    assert len({t.dtype for t in native}) == 2
    for one, other in zip(emitted, native, strict=True):
        assert torch.equal(one, other)
