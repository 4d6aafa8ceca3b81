"""`verify` finds what is wrong and says where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mlgraph
from mlgraph.axes.rules import pointwise
from mlgraph.axes.rules.registry import _RULES, Rule
from mlgraph.program import Program
from mlgraph.program.soundness import Soundness
from tests import zoo


def program() -> Program:
    model, args, kwargs = zoo.get("fused-gpt").build("full")
    return mlgraph.capture(model, args, kwargs)


@pytest.fixture
def wrong_rule() -> Iterator[str]:
    """Cumulative sums said to be elementwise."""
    op = torch.ops.aten.cumsum.default
    kept = _RULES[op]
    _RULES[op] = Rule(structure=pointwise._same)
    yield "aten.cumsum.default"
    _RULES[op] = kept


class Ordered(torch.nn.Module):
    """A model whose mlp axis cannot be permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(13, 8)
        self.up = torch.nn.Linear(8, 12)
        self.down = torch.nn.Linear(12, 8)
        self.head = torch.nn.Linear(8, 13)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        result: torch.Tensor = self.head(x + self.down(self.up(x).cumsum(-1)))
        return result


def test_a_sound_program_passes_every_check() -> None:
    report = mlgraph.verify(program())
    assert report.passed, str(report)
    assert {check.check for check in report.checks} == {
        "soundness",
        "inverse",
        "growth",
        "gradients",
        "depth",
        "storage",
    }


def test_a_wrong_rule_is_found_with_its_axis_and_op(wrong_rule: str) -> None:
    captured = mlgraph.capture(Ordered(), (torch.randint(0, 13, (3, 7)),))
    report = mlgraph.verify(captured, checks=["soundness"])
    assert report.passed
    (told,) = report.skipped
    assert told.startswith("mlp, which stays:")
    assert wrong_rule in told
    assert "cumsum(-1)" in told
    assert told in str(report)


def test_what_fails_on_the_real_weights_is_found_with_its_axis_and_op(
    wrong_rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the trial on a miniature has not caught it."""
    captured = mlgraph.capture(Ordered(), (torch.randint(0, 13, (3, 7)),))
    monkeypatch.setattr("mlgraph.rewrite.self_check._Check.run", lambda check: Soundness())
    failed = mlgraph.verify(captured, checks=["soundness"]).failures
    assert [check.axis for check in failed] == ["mlp"]
    assert wrong_rule in failed[0].where
    assert "cumsum(-1)" in failed[0].where


def test_the_right_rule_freezes_the_same_axis() -> None:
    captured = mlgraph.capture(Ordered(), (torch.randint(0, 13, (3, 7)),))
    assert mlgraph.verify(captured, checks=["soundness"]).passed
    frozen = [axis for axis in captured.axes if axis.size == 12]
    assert frozen
    assert all("order of its indices matters to cumsum" in str(axis.frozen) for axis in frozen)


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(mlgraph.MlgraphError, match="there is no check 'sound'"):
        mlgraph.verify(program(), checks=["sound"])


def test_the_report_is_plain_data() -> None:
    report = mlgraph.verify(program(), checks=["soundness"])
    data = report.to_json()
    assert data["passed"] is True
    assert all(row["error"] <= 1e-9 for row in data["checks"])


def test_a_program_is_checked_against_the_model_that_it_came_from() -> None:
    model = Ordered().eval()
    captured = mlgraph.capture(model, (torch.randint(0, 13, (3, 7)),))
    report = mlgraph.verify(captured, checks=[], model=model)
    assert [(check.check, check.axis, check.passed) for check in report.checks] == [
        ("model", "evaluation", True),
        ("model", "training", True),
    ]
    changed = {name: tensor.detach() * 2 for name, tensor in captured.tensors.items()}
    other = captured.with_values(captured.tensors.replace(changed))
    report = mlgraph.verify(other, checks=[], model=model)
    assert not report.passed
    assert "FAILED" in str(report)


def test_a_model_in_evaluation_is_compared_in_training_all_the_same() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 6)
            self.again = self.into  # tied

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.again(self.out(F.dropout(self.into(x), 0.5, self.training)))
            return result

    model = Dropping().eval()
    captured = mlgraph.capture(model, (torch.randn(3, 6),))
    assert mlgraph.verify(captured, checks=[], model=model).passed
    assert not model.training
