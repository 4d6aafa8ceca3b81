from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlgraph.passes.options import reference
from mlgraph.train import Coarsen, Refine, Train, TrainError, progressive_stacking, vcycle
from mlgraph.train.config import Config, known_defaults, load_config
from mlgraph.train.engine.checkpoint import RunDirectory
from mlgraph.train.errors import RunDirectoryError

MINIMAL = """
model = "hf:gpt.json"
out = "runs/a"
[data]
task = "causal-lm"
train = ["text.txt"]
"""


def _load(tmp_path: Path, text: str, *changes: str) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, changes)


def test_a_minimal_file_has_every_default(tmp_path: Path) -> None:
    config = _load(tmp_path, MINIMAL)
    assert config.phase_program() == vcycle(1000)
    assert config.run.optimizer_state == "carry"
    assert config.data.batch == 16


def test_sections_reach_what_they_configure(tmp_path: Path) -> None:
    more = """
    [recipe]
    steps = 50
    init_steps = [5, 4]
    coarse_steps = [20, 10]
    levels = 3
    lr = [1e-3, 2e-3, 4e-3]
    axes = {mlp = 4}
    [run]
    clip = 0.5
    [run.optimizer]
    kind = "sgd"
    lr = 1
    [run.schedule]
    kind = "wsd"
    rewarm = 3
    """
    config = _load(tmp_path, MINIMAL + more)
    expected = vcycle(50, (5, 4), (20, 10), levels=3, lr=(1e-3, 2e-3, 4e-3), axes={"mlp": 4})
    assert config.phase_program() == expected
    assert (config.run.optimizer.kind, config.run.lr, config.run.schedule.rewarm) == ("sgd", 1.0, 3)


def test_other_recipes_and_listed_phases(tmp_path: Path) -> None:
    stacking = "[recipe]\nkind = 'stacking'\nstage_steps = [10, 20]\n"
    assert _load(tmp_path, MINIMAL + stacking).phase_program() == progressive_stacking([10, 20])
    tables = ["phase = 'coarsen'\nwidth = 1", "phase = 'train'\nsteps = 3", "phase = 'refine'"]
    listed = "".join(f"[[phases]]\n{table}\n" for table in tables)
    assert _load(tmp_path, MINIMAL + listed).phase_program() == [Coarsen(width=1), Train(3), Refine()]
    assert _load(tmp_path, MINIMAL, "recipe.kind=plain", "recipe.steps=7").phase_program() == [Train(7)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "[recipe]\nstepz = 3", "'recipe.stepz': did you mean 'steps'"),
        (MINIMAL + "[run.optimizer]\nlearning_rate = 3", r"no field 'run.optimizer.learning_rate'"),
        (MINIMAL + "[recipe]\nsteps = 'many'", "'recipe.steps' is 'many': give a whole number"),
        (MINIMAL + "[recipe]\nalpha = true", "'recipe.alpha' is True: give a number or a list"),
        (MINIMAL + "[run]\nclip = [1]", "'run.clip'"),
        (MINIMAL.replace("causal-lm", "translation"), "'data.task' is 'translation': give one of causal-lm"),
        (MINIMAL.replace('out = "runs/a"', ""), "'out' is missing"),
        (MINIMAL + "[run.optimizer]\nbetas = [0.9]", "'run.optimizer.betas' is .0.9.: give a list of 2"),
        ("model = ", "cannot be read"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainError, match=message) as raised:
        _load(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path / "run.toml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.batch=0", "data.batch is 0: give at least 1"),
        ("data.eval_batch=-2", "data.eval_batch is -2"),
        ("data.sequence=1", "data.sequence is 1: give at least 2"),
        ("data.workers=-1", "data.workers is -1"),
        ("data.image_size=0", "data.image_size is 0"),
        ("data.channels=4", "data.channels is 4"),
        ("data.eval_share=1.5", "data.eval_share is 1.5"),
        ("data.mask_rate=2", "data.mask_rate is 2"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        _load(tmp_path, MINIMAL, change)


def test_a_missing_file_and_a_bad_change_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="There is no file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(TrainError, match="changes no field"):
        _load(tmp_path, MINIMAL, "steps")
    with pytest.raises(TrainError, match="'model' is no section"):
        _load(tmp_path, MINIMAL, "model.name=3")


def test_every_field_is_documented() -> None:
    listed = list(reference(Config))
    assert [f.name for f in listed if not f.help] == []
    names = {f.name for f in listed}
    assert {
        "data.tokenizer",
        "recipe.alpha",
        "run.optimizer.lr",
        "run.schedule.rewarm_new",
        "run.clip",
    } <= names


# run.json of a configuration that the version before recipes held passes wrote.
BEFORE = {
    "model": "hf:gpt.json",
    "out": "runs/a",
    "data": {
        "task": "causal-lm",
        "train": ["text.txt"],
        "eval": [],
        "eval_share": 0.05,
        "batch": 16,
        "eval_batch": 64,
        "workers": 0,
        "field": "text",
        "tokenizer": None,
        "sequence": 128,
        "mask_rate": 0.15,
        "image_size": 224,
        "channels": 3,
        "flip": False,
    },
    "trust": False,
    "recipe": {
        "kind": "vcycle",
        "steps": 1000,
        "init_steps": 0,
        "coarse_steps": None,
        "stage_steps": [],
        "depth": 2,
        "width": 2,
        "levels": None,
        "alpha": 0.5,
        "lr": None,
        "pairing": "adjacent",
        "tied": "exact",
        "depth_mode": "copy",
        "axes": None,
    },
    "phases": [],
}


def _description(config: Config) -> dict:
    return {**json.loads(json.dumps(config.to_json())), "run": {}}


def test_a_run_of_the_version_before_goes_on(tmp_path: Path) -> None:
    out, defaults = tmp_path / "run", known_defaults()
    RunDirectory(out, {**BEFORE, "run": {}})
    RunDirectory(out, _description(_load(tmp_path, MINIMAL)), defaults=defaults)
    for change in ("recipe.freeze=['mlp']", "recipe.reduce=select", "recipe.detail=1.0"):
        name = change.partition("=")[0]
        with pytest.raises(RunDirectoryError, match=name):
            RunDirectory(out, _description(_load(tmp_path, MINIMAL, change)), defaults=defaults)
