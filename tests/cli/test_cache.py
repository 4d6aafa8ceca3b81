"""A model is captured once: what later verbs say and write is the same, whatever befalls the cache."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

import mlgraph
import mlgraph.interop.open
from mlgraph.interop.identity import OpenRequest, source_key
from tests.selection import some

NET = """
import torch
from torch import nn
from helper import activation

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.up, self.down = nn.Linear(6, width), nn.Linear(width, 6)

    def forward(self, x):
        return x + self.down(activation(self.up(x)))
"""
VERBS = (
    ("inspect", "--json"),
    ("inspect", "--graph"),
    ("axes", "--slots"),
    ("coarsen", "--depth", "2", "--width", "2", "--dry-run"),
)


@pytest.fixture
def captures(monkeypatch, tmp_path):
    """An empty cache, and a list that grows with every capture."""
    monkeypatch.setenv("MLGRAPH_CACHE", str(tmp_path / "cache"))
    seen = []
    real = mlgraph.interop.open.capture_module

    def counted(*args, **kwargs):
        seen.append(kwargs.get("name"))
        return real(*args, **kwargs)

    monkeypatch.setattr(mlgraph.interop.open, "capture_module", counted)
    return seen


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
@pytest.mark.slow
def test_verbs_say_the_same_with_and_without(cli, models, captures, words):
    verb, *options = words
    fresh = cli(verb, models / "bert", *options, "--no-cache")
    first = cli(verb, models / "bert", *options)
    second = cli(verb, models / "bert", *options)
    assert fresh == first == second
    assert fresh.code == 0
    assert len(captures) == 2


@pytest.mark.slow
def test_what_is_written_is_the_same_with_and_without(cli, models, captures, tmp_path):
    written = []
    for name, *options in (("fresh", "--no-cache"), ("first",), ("second",)):
        out = tmp_path / name / "small"
        out.parent.mkdir()
        assert cli("coarsen", models / "bert", "--depth", 2, "--width", 2, "-o", out, *options).code == 0
        written.append({file.name: file.read_bytes() for file in out.iterdir() if file.name != "README.md"})
    assert written[0] == written[1] == written[2]
    assert len(captures) == 2


@pytest.mark.slow
def test_a_copy_of_a_model_is_known_and_keeps_its_own_weights(cli, models, captures, tmp_path):
    assert cli("axes", models / "bert").code == 0
    copy = tmp_path / "tuned" / "bert"
    shutil.copytree(models / "bert", copy)
    from safetensors.torch import load_file, save_file

    state = {name: tensor + 1 for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert cli("capture", copy, "-o", tmp_path / "tuned.pt").code == 0
    assert len(captures) == 1
    program = mlgraph.load(tmp_path / "tuned.pt")
    assert program.origin.path == str(copy)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(program.tensors[name], state[name])
    assert "tuned" not in cli("inspect", models / "bert").out


@pytest.mark.parametrize("file", some(["program.pt", "portrait.json", "entry.json"], ["entry.json"]))
def test_a_damaged_entry_is_made_again_and_said(cli, models, captures, file, tmp_path):
    expected = cli("inspect", models / "bert")
    path = next((tmp_path / "cache" / "models").glob(f"*/{file}"))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    verb = ("inspect", "--graph") if file == "program.pt" else ("inspect",)
    again = cli(verb[0], models / "bert", *verb[1:])
    assert again.code == 0
    assert "damaged" in again.err
    assert verb[1:] or again.out == expected.out
    assert cli("inspect", models / "bert") == expected


def test_ones_own_class_is_captured_again_when_its_code_changes(cli, captures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "helper.py").write_text("from torch.nn.functional import gelu as activation\n")
    (tmp_path / "netfile.py").write_text(NET)
    import netfile

    torch.save(netfile.Net().state_dict(), "net.pth")
    call = ("net.pth", "--model", "netfile.py:Net(8)", "--input", "float32[5,6]")
    first = cli("axes", *call)
    assert first.code == 0, first.err
    assert cli("axes", *call) == first
    assert len(captures) == 1
    (tmp_path / "helper.py").write_text("from torch.nn.functional import relu as activation\n")
    assert cli("axes", *call).code == 0
    assert len(captures) == 2
    sys.modules.pop("netfile", None)
    sys.modules.pop("helper", None)


@pytest.mark.slow
def test_the_second_look_imports_no_torch(models, tmp_path):
    """The looks at what is known are answered before torch could have been imported."""
    script = (
        "import sys\nfrom mlgraph.cli.app import run\n"
        "code = max(run(words.split('|')) for words in sys.argv[1:])\n"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    source = str(models / "bert")
    verbs = [f"inspect|{source}", f"axes|{source}", f"blocks|{source}"]
    dry = f"coarsen|{source}|--depth|2|--dry-run"
    environment = {**os.environ, "MLGRAPH_CACHE": str(tmp_path / "cache")}

    def codes(*words):
        command = [sys.executable, "-c", script, *words]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    assert codes(verbs[0], dry) == 10
    assert codes(*verbs, dry) == 0


def test_the_key_follows_what_a_capture_depends_on(models, tmp_path):
    copy = tmp_path / "bert"
    shutil.copytree(models / "bert", copy)
    asked = OpenRequest(str(copy))
    key = source_key(asked)
    assert key == source_key(OpenRequest(str(models / "bert")))
    assert source_key(OpenRequest(str(copy), loss=False)) != key
    assert source_key(OpenRequest(str(copy), module="bert")) != key
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert source_key(asked) != key
    assert source_key(OpenRequest("timm:vit")) != source_key(OpenRequest("timm:vit,depth=2"))
    assert source_key(OpenRequest(str(tmp_path / "nothing"))) is None


def test_the_cache_is_shown_and_cleared(cli, models, captures):
    assert "0 B in" in cli("cache").out
    cli("axes", models / "bert")
    shown = cli("cache", "show")
    assert str(models / "bert") in "".join(shown.out.split())
    assert len(cli("cache", "show", "--json").json["entries"]) == 1
    assert "deleted 1 entry" in cli("cache", "clear").out
    cli("axes", models / "bert")
    assert len(captures) == 2
