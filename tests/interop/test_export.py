"""Programs in formats of other tools, written from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mlgraph
from tests.cli.test_views import stack


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".pt2"])
def test_the_ending_names_the_format(ending: str, tmp_path: Path) -> None:
    program, path = stack(), tmp_path / f"model{ending}"
    form = mlgraph.export(program, str(path))
    assert (
        form == {".pth": "state dict", ".safetensors": "safetensors", ".pt2": "torch.export archive"}[ending]
    )
    if ending == ".pt2":
        state = torch.export.load(path).state_dict
    else:
        state = load_file(path) if ending == ".safetensors" else torch.load(path, weights_only=True)
    assert state.keys() == program.state_dict().keys()
    for name, value in program.state_dict().items():
        assert torch.equal(state[name], value)


def test_an_ending_that_names_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mlgraph.FileError, match="has no ending that names a format; use .safetensors, .pt2"):
        mlgraph.export(stack(), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
