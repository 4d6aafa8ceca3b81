"""Small models on disk, and the command line run in this process."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.cli.app import run
from mlgraph.interop.open import open_source
from tests.zoo import get


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run ``mlgraph ARGUMENTS`` at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def invoke(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return invoke


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with ``bert`` and ``llama`` as Hugging Face directories, and both and ``mlp`` as programs."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for entry, name in (("bert-mlm", "bert"), ("llama", "llama")):
        model = get(entry).build().model
        model.save_pretrained(folder / name)
        mlgraph.save(open_source(folder / name), folder / f"{name}.pt")
    mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 3))
    mlgraph.save(mlgraph.capture(mlp, (torch.randn(5, 6),), name="mlp"), folder / "mlp.pt")
    torch.save(mlp, folder / "pickled.pkl")
    return folder


@pytest.fixture
def bert(models) -> Path:
    return models / "bert.pt"


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
