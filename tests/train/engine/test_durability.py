from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.selection import some
from tests.train.victim import Kill, start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder / "run", folder / "weights.safetensors") == 0
    return folder


def _equal(left: Path, right: Path) -> bool:
    ours, theirs = load_file(left), load_file(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (record["step"], record[key]) for record in records for key in ("loss", "eval_loss") if key in record
    ]


def _killed_then_finished(folder: Path, kills: list[Kill]) -> int:
    died = 0
    for kill in kills:
        code = start(folder / "run", folder / "weights.safetensors", kill)
        assert code in (0, -signal.SIGKILL)
        died += code != 0
    assert start(folder / "run", folder / "weights.safetensors") == 0
    return died


@pytest.mark.parametrize(
    "kills",
    some(
        [
            [Kill("step", 4), Kill("write", 1)],
            [Kill("level", 0), Kill("write", 0), Kill("step", 6)],
            [Kill("write", 5), Kill("step", 4), Kill("step", 1)],
        ],
        lambda kills: kills[0].where == "level",
    ),
    ids=lambda kills: "-".join(f"{kill.where}{kill.count}" for kill in kills),
)
def test_a_killed_run_ends_bit_identical(uninterrupted: Path, tmp_path: Path, kills: list[Kill]) -> None:
    assert _killed_then_finished(tmp_path, kills) == len(kills)
    assert _equal(tmp_path / "weights.safetensors", uninterrupted / "weights.safetensors")
    assert _losses(tmp_path / "run") == _losses(uninterrupted / "run")


@pytest.mark.thorough
def test_twenty_random_kills_change_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    kinds = [Kill("step", draw.randrange(0, 8)) for _ in range(7)]
    kinds += [Kill("write", draw.randrange(0, 6)) for _ in range(6)]
    kinds += [Kill("time", seconds=draw.uniform(0.0, 1.5)) for _ in range(7)]
    draw.shuffle(kinds)
    died = 0
    for number, kill in enumerate(kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        died += _killed_then_finished(folder, [kill])
        assert _equal(folder / "weights.safetensors", uninterrupted / "weights.safetensors"), kill
    assert died >= 13
