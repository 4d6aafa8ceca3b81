"""Calibrating on the command line, and coarsening by what data shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mlgraph
from tests.train.models import Classifier, idx_files


class Pixels(nn.Module):
    """The classifier on the first pixels of images [batch, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Classifier()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x[:, 0, 0])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    torch.manual_seed(0)
    mlgraph.save(mlgraph.capture(Pixels(), (torch.randn(5, 1, 8, 8),)), folder / "m.pt")
    images = idx_files(folder, count=12)
    table = {
        "task": "image-classification",
        "train": [str(images)],
        "image_size": 8,
        "channels": 1,
        "batch": 4,
    }
    lines = [f"{name} = {value!r}".replace("'", '"') for name, value in table.items()]
    (folder / "data.toml").write_text("\n".join(["[data]", *lines]))
    return folder


def test_a_calibration_is_written_and_coarsened_by(cli: Any, work: Path) -> None:
    made = cli("calibrate", work / "m.pt", work / "data.toml", "-o", work / "c", "--batches", 2)
    assert made.code == 0, made.err
    known = mlgraph.load_calibration(work / "c")
    assert len(known.inputs) == 2
    assert any(activity.taylor is not None for activity in known.axes.values())
    bare = cli("calibrate", work / "m.pt", work / "data.toml", "-o", work / "d", "--no-gradients", "--json")
    assert len(bare.json["influence"]["inner.blocks"]) == 4
    assert all(activity.taylor is None for activity in mlgraph.load_calibration(work / "d").axes.values())
    options = ("--depth", 2, "--reduce", "select", "--score", "influence", "--repair")
    result = cli("coarsen", work / "m.pt", *options, "--calibrate", work / "c", "-o", work / "s.pt")
    assert result.code == 0, result.err
    expected = mlgraph.coalesce(
        mlgraph.load(work / "m.pt"), 2, reduce="select", score="influence", repair=True, calibration=known
    )
    small = mlgraph.load(work / "s.pt")
    for name, tensor in expected.tensors.items():
        assert torch.equal(small.tensors[name], tensor.detach())


def test_coarsening_takes_the_data_itself(cli: Any, work: Path) -> None:
    options = ("--axis", "mlp=2:select:pad", "--score", "taylor", "--calibrate", work / "data.toml")
    result = cli("coarsen", work / "m.pt", *options, "-o", work / "t.pt")
    assert result.code == 0, result.err
    assert mlgraph.load(work / "t.pt").history == ('coalesce{axes={mlp="2:select:pad"},score=taylor}',)
    assert cli("coarsen", work / "m.pt", *options, "--dry-run").code == 0


def test_what_is_no_calibration_is_named(cli: Any, work: Path) -> None:
    options = ("--depth", 2, "--reduce", "select", "--score", "activation")
    result = cli("coarsen", work / "m.pt", *options, "-o", work / "u.pt")
    assert (result.code, "give a calibration" in result.err) == (1, True)
    result = cli("coarsen", work / "m.pt", *options, "--calibrate", work / "m.pt", "-o", work / "u.pt")
    assert (result.code, "is no calibration" in result.err) == (1, True)
    assert not (work / "u.pt").exists()
