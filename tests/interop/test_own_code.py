"""Directories whose class is in code of their own: opened with trust, and written back in that class."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mlgraph
from mlgraph.errors import FileError
from mlgraph.interop import hollow
from mlgraph.interop.huggingface import save_huggingface
from mlgraph.interop.open import open_source

CODE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class OwnConfig(PretrainedConfig):
    model_type = "of_its_own"

    def __init__(self, words=11, width=8, layers=4, **more):
        self.words, self.width, self.layers = words, width, layers
        super().__init__(**more)


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.words, config.width)
        self.blocks = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))
        self.head = nn.Linear(config.width, config.words)
        self.post_init()

    def forward(self, input_ids):
        x = self.words(input_ids)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.head(x)
"""


def test_a_directory_with_code_of_its_own_is_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "own.py").write_text(textwrap.dedent(CODE))
    settings = {
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
        "model_type": "of_its_own",
        "words": 11,
        "width": 8,
        "layers": 4,
    }
    (source / "config.json").write_text(json.dumps(settings))
    shapes = {"words.weight": (11, 8), "head.weight": (11, 8), "head.bias": (11,)}
    for block in range(4):
        shapes |= {f"blocks.{block}.weight": (8, 8), f"blocks.{block}.bias": (8,)}
    weights = {name: torch.randn(shape) / 3 for name, shape in shapes.items()}
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    program = open_source(source, trust=True)
    coarse = mlgraph.coalesce(program, depth=2, width=2)
    save_huggingface(coarse, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["width"], written["layers"], written["auto_map"]) == (4, 2, settings["auto_map"])
    assert (tmp_path / "out" / "own.py").read_text() == (source / "own.py").read_text()
    again = open_source(tmp_path / "out", trust=True)
    ids = torch.randint(0, 11, (2, 5))
    torch.testing.assert_close(mlgraph.emit(again).eval()(ids), mlgraph.emit(coarse).eval()(ids))
    # as in a process that has not loaded the code yet
    monkeypatch.setattr(hollow, "_BROUGHT", {})
    with pytest.raises(FileError, match="open the directory that brings it with --trust"):
        save_huggingface(mlgraph.decoalesce(open_source(tmp_path / "out")), tmp_path / "fine")
    fine = mlgraph.decoalesce(open_source(tmp_path / "out", trust=True))
    save_huggingface(fine, tmp_path / "fine")
    written = json.loads((tmp_path / "fine" / "config.json").read_text())
    assert (written["width"], written["layers"]) == (8, 4)
