"""Which runs a study asks for, and what it reads off those that are finished."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mlgraph.train.errors import TrainError
from mlgraph.train.sweep.runs import RunOutcome, StudyRun, best, needed
from mlgraph.train.sweep.study import Study, load_study
from mlgraph.train.sweep.table import markdown, tabulate
from mlgraph.train.tables import build

TABLE: dict[str, Any] = {
    "out": "study",
    "seeds": [0, 1],
    "curve": [0.5, 1.0],
    "base": {
        "model": "hf:gpt.json",
        "data": {"task": "causal-lm", "train": ["text.txt"], "eval": ["a.txt"]},
        "recipe": {"kind": "plain", "steps": 100},
        "run": {"schedule": {"warmup": 10}, "eval_every": 20},
    },
    "search": {"trials": 4, "rungs": [0.5, 1.0]},
    "arms": {
        "scratch": {
            "baseline": True,
            "tune": {"run.optimizer.lr": [0.1, 0.2, 0.3], "recipe.alpha": [0.1, 0.2]},
        },
        "cycle": {
            "set": {"recipe.kind": "vcycle", "recipe.steps": 80},
            "tune": {"run.optimizer.lr": [0.1, 0.2]},
        },
    },
}


def study(**changes: Any) -> Study:
    return build(Study, {**TABLE, **changes})


def cost(trial: StudyRun) -> RunOutcome:
    """A made-up training: lower rates end lower, longer runs too, a cycle costs half."""
    rate = float(trial.settings["run.optimizer.lr"])
    half = 0.5 if trial.arm == "cycle" else 1.0
    return RunOutcome(
        4.0 - trial.share + rate + 0.01 * trial.seed, 1e12 * trial.share * half, 10.0 * trial.share
    )


def finished(made: Study) -> dict[str, RunOutcome]:
    outcomes: dict[str, RunOutcome] = {}
    while trials := needed(made, outcomes):
        outcomes[trials[0].name] = cost(trials[0])
    return outcomes


def test_settings_are_drawn_without_repetition_and_the_same_every_time():
    drawn = list(study().settings("scratch"))
    assert len(drawn) == 4
    assert len({tuple(sorted(settings.items())) for settings in drawn}) == 4
    assert drawn == list(study().settings("scratch"))
    assert len(list(study().settings("cycle"))) == 2


def test_halving_keeps_the_best_half_and_reports_every_seed():
    made = study()
    outcomes = finished(made)
    at = [name for name in outcomes if name.startswith("search-scratch")]
    assert len([name for name in at if "-0.5-" in name]) == 4
    assert len([name for name in at if "-1-" in name]) == 2
    assert len([name for name in outcomes if name.startswith("report-scratch")]) == 4
    assert len([name for name in outcomes if name.startswith("report-cycle")]) == 2
    chosen = best(made, "cycle", outcomes)
    assert chosen is not None
    assert chosen.settings == {"run.optimizer.lr": 0.1}


def test_nothing_is_reported_before_its_search_has_ended():
    made = study()
    assert all(trial.stage == "search" for trial in needed(made, {}))


def test_a_run_that_diverged_never_wins():
    made = study()
    outcomes = {trial.name: RunOutcome(math.inf, 1.0, 1.0) for trial in needed(made, {})}
    outcomes |= {trial.name: RunOutcome(math.inf, 1.0, 1.0) for trial in needed(made, outcomes)}
    assert best(made, "scratch", outcomes) is None
    assert not needed(made, outcomes)


def test_shorter_runs_keep_their_shape():
    made = study(report_eval=["b.txt"])
    config = made.config("cycle", {"run.optimizer.lr": 0.1}, 0.5, 1, Path("x"), final=True)
    assert (config.recipe.steps, config.run.schedule.warmup, config.run.eval_every) == (40, 5, 10)
    assert (config.run.seed, config.out, config.data.eval) == (1, "x", ("b.txt",))
    assert made.config("cycle", {}, 1.0, 1, Path("x"), final=False).data.eval == ("a.txt",)


def test_savings_are_read_off_the_decayed_curve_of_the_same_seed():
    made = study()
    table = tabulate(made, finished(made))
    cycle = next(arm for arm in table.arms if arm.name == "cycle")
    # both sides end at the same loss at full length, and the cycle costs half
    assert [share.value for share in cycle.saved["flops"]] == pytest.approx([0.5, 0.5])
    assert cycle.tuning_runs == 3
    assert "+50.0% ± 0.0%" in markdown(table)
    assert table.missing == 0


@pytest.mark.parametrize(
    ("loss", "bound", "value"),
    [(3.05, "at least", 0.8), (3.9, "at most", 0.6), (3.35, "exact", 1 - 0.2 / math.sqrt(0.5))],
)
def test_a_loss_outside_of_the_curve_bounds_the_saving(loss, bound, value):
    made = study(seeds=[0])
    outcomes = finished(made)
    name = next(name for name in outcomes if name.startswith("report-cycle"))
    outcomes[name] = RunOutcome(loss, 0.2e12, 1.0)
    cycle = next(arm for arm in tabulate(made, outcomes).arms if arm.name == "cycle")
    [share] = cycle.saved["flops"]
    assert share.bound == bound
    assert share.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arms": {"one": {}}}, "A study has one baseline: set baseline = true in one of its arms."),
        ({"search": {"rungs": [0.5]}}, "search.rungs has to rise, and to end at 1, the full length."),
        ({"seeds": []}, "seeds is empty: give at least one."),
        (
            {"arms": {"one": {"baseline": True, "set": {"recipe.stepz": 3}}}},
            "arms.one: There is no field 'recipe.stepz': did you mean 'steps'?",
        ),
        (
            {"arms": {"one": {"baseline": True, "tune": {"recipe.steps": 3}}}},
            "arms.one.tune has recipe.steps = 3: give the list of values to try.",
        ),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(TrainError) as caught:
        study(**changes)
    assert str(caught.value) == sentence


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(TrainError, match="There is no file"):
        load_study(tmp_path / "none.toml")
