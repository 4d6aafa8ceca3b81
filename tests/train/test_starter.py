"""First runs: files that say what may be changed, and train as they stand."""

import json
import tomllib

import pytest

from mlgraph.cli.app import run
from mlgraph.train.config import load_config
from mlgraph.train.starter import TASKS, write_starter


@pytest.mark.parametrize("task", TASKS)
def test_a_first_run_is_a_configuration_with_every_field_told(task, tmp_path):
    files = write_starter(task, tmp_path / "run.toml")
    assert all(file.exists() for file in files)
    config = load_config(tmp_path / "run.toml")
    assert config.data.task == task
    text = (tmp_path / "run.toml").read_text()
    assert max(map(len, text.splitlines())) <= 80
    # every comment that stands for a field is one: uncommented, the file still reads
    live = [line.removeprefix("# ") if line.startswith("# eval_share") else line for line in text.split("\n")]
    assert tomllib.loads("\n".join(live))["data"]["eval_share"] == 0.05


def test_files_that_are_there_stay(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert run(["train", "--init", "causal-lm"]) == 1
    assert "config.json is there already" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert run(["train", "--init", "casual-lm"]) == 1
    assert "did you mean 'causal-lm'?" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_first_run_trains_as_it_stands(tmp_path, capsys, monkeypatch):
    """One task here, for fewer steps; the others differ in data, which tests of tasks cover."""
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--init", "image-classification"]) == 0
    capsys.readouterr()
    fewer = ["--set", "recipe.steps=40", "--set", "recipe.init_steps=4", "--set", "recipe.coarse_steps=20"]
    assert run(["train", "run.toml", *fewer, "--json"]) == 0
    last = json.loads(capsys.readouterr().out)
    assert last["step"] == 60
    lines = (tmp_path / "runs/first/metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert sum("eval_loss" in record for record in history) >= 20
