"""What a file of weights, or of a module, needs to be coarsened: said in the words of the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import mlgraph

NET = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())

class Net(nn.Module):
    def __init__(self, width, layers=2):
        super().__init__()
        self.enter, self.leave = nn.Linear(5, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(x)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_net.py").write_text(NET)
    torch.manual_seed(0)
    import own_net  # type: ignore[import-not-found]

    net = own_net.Net(8)
    torch.save(net, "model.pt")
    torch.save(net.state_dict(), "state.pt")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, "checkpoint.pt")
    monkeypatch.delitem(sys.modules, "own_net")
    return tmp_path


@pytest.mark.parametrize("file", ["state.pt", "checkpoint.pt"])
def test_a_state_dict_asks_for_its_model(cli, folder: Path, file: str) -> None:
    result = cli("coarsen", file, "--depth", 2, "--width", 2, "-o", "small.pt")
    assert result.code == 1
    assert result.err == (
        f"mlgraph: {file} holds a state dict, weights without a model: name the model with --model (in "
        "Python model=), as a config.json, timm:NAME,key=value, or FILE.py:CLASS(ARGUMENTS).\n"
    )
    assert not (folder / "small.pt").exists()


@pytest.mark.parametrize("file", ["state.pt", "checkpoint.pt"])
def test_with_its_model_it_is_coarsened(cli, folder: Path, file: str) -> None:
    given = ("--model", "own_net.py:Net(8)", "--input", "float32[3,5]")
    result = cli("coarsen", file, *given, "--depth", 2, "--width", 2, "-o", "small.pt")
    assert (result.code, result.err) == (0, "")
    small = mlgraph.load(folder / "small.pt")
    assert small.tensors["enter.weight"].shape == (4, 5)
    whole = torch.load("state.pt", weights_only=True)["enter.bias"]
    torch.testing.assert_close(small.tensors["enter.bias"], whole.view(4, 2).mean(1))


def test_a_pickled_module_finds_its_class_in_the_current_folder(cli, folder: Path) -> None:
    refused = cli("coarsen", "model.pt", "--width", 2, "-o", "small.pt")
    assert (refused.code, "--trust" in refused.err) == (1, True)
    asked = cli("coarsen", "model.pt", "--trust", "--width", 2, "-o", "small.pt")
    assert (asked.code, "--input x=float32[2,8]" in asked.err) == (1, True)
    done = cli("coarsen", "model.pt", "--trust", "--input", "float32[3,5]", "--width", 2, "-o", "small.pt")
    assert (done.code, done.err) == (0, "")
    assert mlgraph.load(folder / "small.pt").num_parameters() < 256


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("own_net.py:Nett(8)", "own_net.py has no class Nett: check --model."),
        (
            "own_net.py:Net(4)",
            "state.pt has another shape for blocks.0.down.bias and 14 more: check that own_net.py:Net(4) is",
        ),
        (
            "own_net.py:Net(8, layers=3)",
            "state.pt lacks blocks.2.down.bias and 5 more: check that own_net.py:Net(8, layers=3) is",
        ),
        (
            "own_net.py:Net(",
            "'Net(' after own_net.py: is no CLASS(ARGUMENTS) with plain values; write for example",
        ),
        ("other.py:Net(8)", "There is no file other.py: check the path in --model."),
        (
            "nothing.json",
            "There is no nothing.json: name the model as a config.json, timm:NAME,key=value, or",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_named(cli, folder: Path, model: str, sentence: str) -> None:
    result = cli("coarsen", "state.pt", "--model", model, "--width", 2, "-o", "small.pt")
    assert result.code == 1
    assert result.err.startswith(f"mlgraph: {sentence}")
    assert not (folder / "small.pt").exists()


def test_a_model_for_what_is_no_state_dict_is_refused(cli, folder: Path) -> None:
    result = cli("coarsen", "model.pt", "--trust", "--model", "own_net.py:Net(8)", "--width", 2)
    assert result.code == 1
    assert "holds no state dict" in result.err
