"""Studies carried out: once, again, beside one another, and after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.program import Program
from mlgraph.train.errors import TrainError
from mlgraph.train.sweep import sweep as module
from mlgraph.train.sweep.folder import StudyFolder
from mlgraph.train.sweep.study import Study
from mlgraph.train.sweep.sweep import sweep
from mlgraph.train.tables import build


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(300, 8), nn.Linear(8, 300)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(input_ids))


def opened(source: str, **_: Any) -> Program:
    return mlgraph.capture(Tiny(), (torch.randint(0, 300, (2, 16)),), name="tiny")


def made(folder: Path, **changes: Any) -> Study:
    (folder / "text.txt").write_text("".join(f"{n} green bottles, {n * n % 97} walls\n" for n in range(400)))
    table = {
        "out": str(folder / "study"),
        "seeds": [0, 1],
        "curve": [0.5, 1.0],
        "base": {
            "model": "tiny",
            "data": {
                "task": "causal-lm",
                "train": [str(folder / "text.txt")],
                "tokenizer": "bpe:300",
                "sequence": 16,
                "batch": 4,
            },
            "recipe": {"kind": "plain", "steps": 6},
            "run": {"eval_batches": 1, "checkpoint_every": 0, "trackers": []},
        },
        "search": {"trials": 2, "rungs": [0.5, 1.0]},
        "arms": {"scratch": {"baseline": True, "tune": {"run.optimizer.lr": [1e-2, 1e-3]}}, **changes},
    }
    return build(Study, table)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLGRAPH_CACHE", str(tmp_path / "cache"))


def test_a_study_is_run_once(tmp_path):
    study = made(tmp_path)
    first = sweep(study, opened)
    # two settings at half length, the better at full length, two seeds at two lengths
    assert len(first.ran) == 2 + 1 + 4
    again = sweep(study, opened)
    assert again.ran == ()
    assert again.outcomes == first.outcomes
    assert all(math.isfinite(outcome.loss) for outcome in first.outcomes.values())


@pytest.mark.slow
def test_runs_of_one_seed_begin_at_the_same_weights(tmp_path):
    """A program that is opened once and given out again is as untrained as the first time."""
    study = made(tmp_path)
    outcomes = sweep(study, opened).outcomes
    searched = next(name for name in outcomes if name.startswith("search-scratch-1-"))
    final = searched.replace("search", "report")
    assert outcomes[final].loss == outcomes[searched].loss


def test_a_run_that_another_holds_is_left_to_it(tmp_path):
    study = made(tmp_path)
    folder = StudyFolder.of(study)
    trial = module.needed(study, {})[0]
    with folder.claimed(trial) as mine, folder.claimed(trial) as twice:
        assert mine
        assert not twice


def test_another_study_in_the_folder_is_refused(tmp_path):
    StudyFolder.of(made(tmp_path))
    with pytest.raises(TrainError, match="holds another study: give the study another out"):
        StudyFolder.of(made(tmp_path, more={"tune": {"run.optimizer.lr": [1.0]}}))


@pytest.mark.slow
def test_a_diverging_setting_is_written_down_and_the_study_goes_on(tmp_path):
    study = made(tmp_path, wild={"set": {"run.clip": 1e30, "run.optimizer.lr": 1e30}})
    outcomes = sweep(study, opened).outcomes
    wild = [outcome.loss for name, outcome in outcomes.items() if "wild" in name]
    assert set(wild) == {math.inf}


@pytest.mark.thorough
def test_killed_at_random_it_ends_in_the_same_table(tmp_path):
    study = made(tmp_path)
    expected = sweep(study, opened).outcomes
    again = tmp_path / "again"
    again.mkdir()
    script = (
        "import json, sys, pathlib\n"
        "from tests.train.sweep.test_sweep import made, opened\n"
        "from mlgraph.train.sweep.sweep import sweep\n"
        "sweep(made(pathlib.Path(sys.argv[1])), opened)\n"
    )
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", script, str(again)], cwd=Path(__file__).parents[3])
        try:
            process.wait(timeout=8.0 + kills)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.1)
    found = {
        path.stem: json.loads(path.read_text())["loss"] for path in (again / "study/outcomes").glob("*.json")
    }
    assert found == {name: outcome.loss for name, outcome in expected.items()}
