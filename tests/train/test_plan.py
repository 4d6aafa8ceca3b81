"""Budgets in steps, and ceilings of recipes, against arithmetic on the graph's own costs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

import mlgraph
from mlgraph.interop.heads import task_of
from mlgraph.program import HuggingFaceOrigin, Program
from mlgraph.train import TrainError, count_flops
from mlgraph.train.plan import Plan, configuration, plan
from mlgraph.train.starter import write_configuration
from tests.train.models import classifier


@pytest.fixture(scope="module")
def program() -> Program:
    return mlgraph.capture(classifier(width=32, depth=8), (torch.randn(5, 8),), check=False)


@pytest.fixture(scope="module")
def found(program: Program) -> Plan:
    step = count_flops(program, torch.zeros(32, 8)).training
    return plan(program, 2_000 * step, batch=32)


def test_a_budget_is_so_many_steps(program: Program, found: Plan) -> None:
    assert found.steps == 2_000
    assert found.tokens == 2_000 * 32
    assert found.batch[0][1] == (32, 8)
    with pytest.raises(TrainError, match="pay 0 steps"):
        plan(program, 10.0)


def test_ceilings_are_what_the_steps_cost(program: Program, found: Plan) -> None:
    batch = torch.zeros(32, 8)
    ways = {"depth": {"depth": 2}, "width": {"width": 2}, "depth and width": {"depth": 2, "width": 2}}
    own = count_flops(program, batch).training
    for ceiling in found.ceilings:
        programs = [program]
        while len(programs) < max(level for level, _ in ceiling.steps):
            programs.append(mlgraph.coalesce(programs[-1], **ways[ceiling.way]))
        cost = [count_flops(level, batch).training for level in programs]
        spent = sum(steps * cost[level - 1] for level, steps in ceiling.steps)
        assert sum(steps for _, steps in ceiling.steps) == found.steps
        assert ceiling.saving == pytest.approx(1 - spent / (found.steps * own))
    assert {c.kind for c in found.ceilings} == {"vcycle", "wcycle", "fmg", "cascade"}
    savings = [c.saving for c in found.ceilings]
    assert savings == sorted(savings, reverse=True)


def test_what_cannot_be_coarsened_is_said() -> None:
    shallow = mlgraph.capture(classifier(depth=1), (torch.randn(5, 8),), check=False)
    found = plan(shallow, 1e9)
    assert {ceiling.way for ceiling in found.ceilings} == {"width"}
    assert any("in depth" in note for note in found.notes)


def test_the_run_written_is_one(program: Program, found: Plan, tmp_path: Path) -> None:
    from mlgraph.train.config import load_config

    write_configuration(configuration(found, program, "model.pt"), tmp_path / "run.toml")
    config = load_config(tmp_path / "run.toml")
    table = tomllib.loads((tmp_path / "run.toml").read_text())
    assert table["data"]["batch"] == 32
    assert sum(phase.steps for phase in config.phase_program() if hasattr(phase, "steps")) == found.steps
    with pytest.raises(TrainError, match=r"run\.toml is there already"):
        write_configuration({}, tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("cls", "kind", "task"),
    [
        ("GPT2LMHeadModel", "gpt2", "causal-lm"),
        ("BertForMaskedLM", "bert", "masked-lm"),
        ("BertModel", "bert", "masked-lm"),
        ("LlamaModel", "llama", "causal-lm"),
        ("T5ForConditionalGeneration", "t5", "seq2seq"),
        ("ViTModel", "vit", "image-classification"),
        ("RobertaForSequenceClassification", "roberta", "text-classification"),
        ("Wav2Vec2ForCTC", "wav2vec2", None),
    ],
)
def test_the_task_is_that_of_the_head(program: Program, cls: str, kind: str, task: str | None) -> None:
    assert task_of(program.replace(origin=HuggingFaceOrigin(cls, {"model_type": kind}))) == task
    assert task_of(program) is None
