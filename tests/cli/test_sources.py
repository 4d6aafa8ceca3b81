"""Every kind of file and folder that may be given as SOURCE: it works, or the answer says what to do."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mlgraph

ASKED = ("--width", 2, "-o", "small.pt")
MODEL = "name the model with --model (in Python model=), as a config.json, timm:NAME,key=value, or"


@pytest.fixture
def folder(models: Path, in_empty_folder: Path) -> Path:
    """A folder with a small model in every form, and with files that hold none."""
    mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 3))
    torch.save(mlp, "pickled.pkl")
    torch.export.save(torch.export.export(mlp, (torch.randn(3, 6),)), "exported.pt2")
    save_file(mlp.state_dict(), "weights.safetensors")
    Path("mlp.py").write_text(
        "from torch import nn\n\ndef MLP():\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 3))\n"
    )
    for name in ("weights-only", "nothing"):
        Path(name).mkdir()
    save_file(mlp.state_dict(), "weights-only/model.safetensors")
    shutil.copytree(models / "llama", "llama")
    shutil.copyfile(models / "mlp.pt", "saved.pt")
    Path("graph.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    Path("empty.pt").touch()
    Path("random.pt").write_bytes(bytes(range(7, 256)) * 5)
    Path("notes.txt").write_text("no model at all")
    return in_empty_folder


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("pickled.pkl", "if you trust whoever made it, pass --trust"),
        ("exported.pt2", "if you trust whoever made it, pass --trust"),
        ("weights.safetensors", f"weights.safetensors holds a state dict, weights without a model: {MODEL}"),
        ("weights-only", f"no config.json: put the model's config.json beside them, or {MODEL}"),
        ("nothing", "nothing has no config.json; give a Hugging Face model directory or its config file."),
        ("llama/model.safetensors", "whose config.json lies beside it: give the directory llama instead."),
        ("llama/config.json", "give its directory llama, or hf:llama/config.json for random weights."),
        ("graph.onnx", "does not read: give the PyTorch model that it was exported from."),
        ("empty.pt", "empty.pt is an empty file: check that it was written, or copied, whole."),
        ("random.pt", "or not a whole one: check the name, and the size."),
        ("notes.txt", "or not a whole one: check the name, and the size."),
        ("missing.pt", "check the path, or write timm:NAME"),
        ("bert-base-uncased", "is downloaded first, with hf download bert-base-uncased."),
    ],
)
def test_what_has_no_model_says_what_to_do(cli, folder: Path, source: str, sentence: str) -> None:
    result = cli("coarsen", source, *ASKED)
    assert (result.code, result.out) == (1, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not (folder / "small.pt").exists()


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("pickled.pkl", ("--trust", "--input", "float32[3,6]")),
        ("exported.pt2", ("--trust",)),
        ("exported.pt2", ("--trust", "--input", "float32[3,6]")),
        ("weights.safetensors", ("--model", "mlp.py:MLP()", "--input", "float32[3,6]")),
        ("weights-only", ("--model", "mlp.py:MLP()", "--input", "input=float32[3,6]")),
        ("saved.pt", ()),
    ],
)
def test_what_has_a_model_is_coarsened(cli, folder: Path, source: str, options: tuple[str, ...]) -> None:
    result = cli("coarsen", source, *options, *ASKED)
    assert (result.code, result.err) == (0, "")
    assert mlgraph.load("small.pt").num_parameters() < 90


def test_a_saved_program_takes_no_inputs(cli, folder: Path) -> None:
    result = cli("axes", "saved.pt", "--input", "float32[3,6]")
    assert result.code == 1
    assert "captured on inputs of its own: leave --input (in Python inputs=) out." in result.err


@pytest.mark.parametrize(
    "verb",
    ["apply", "axes", "blocks", "capture", "coarsen", "explain", "inspect", "refine", "verify", "view"],
)
def test_every_verb_takes_inputs(cli, folder: Path, verb: str) -> None:
    more = {
        "apply": ("coalesce{width=2}", "pickled.pkl", "-o", "out.pt"),
        "capture": ("pickled.pkl", "-o", "out.pt"),
        "coarsen": ("pickled.pkl", *ASKED),
        "explain": ("pickled.pkl", "0.weight"),
        "refine": ("pickled.pkl", "--width", 2, "-o", "out.pt"),
        "view": ("pickled.pkl", "-o", "out.html"),
    }
    result = cli(verb, *more.get(verb, ("pickled.pkl",)), "--trust", "--input", "input=float32[3,6]")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("verb", [("diff",), ("interpolate", "--alpha", 0.5, "-o", "mixed.pt")])
def test_verbs_of_two_models_give_inputs_to_the_one_that_is_captured(cli, folder: Path, verb: tuple) -> None:
    given = ("--trust", "--input", "float32[3,6]")
    result = cli(verb[0], "pickled.pkl", "saved.pt", *verb[1:], *given)
    assert (result.code, result.err) == (0, "")
    both = cli("diff", "saved.pt", "saved.pt", *given)
    assert (both.code, "leave --input" in both.err) == (1, True)


@pytest.mark.slow
def test_a_gguf_file_goes_out_and_comes_back(cli, folder: Path, models: Path) -> None:
    pytest.importorskip("gguf")
    result = cli("export", models / "llama.pt", "-o", "llama.gguf")
    assert (result.code, result.err) == (0, "")
    program, read = mlgraph.load(models / "llama.pt"), mlgraph.capture("llama.gguf")
    assert read.tensors.keys() >= program.tensors.parameters
    for name in program.tensors.parameters:
        assert torch.equal(read.tensors[name], program.tensors[name])
    Path("folder").mkdir()
    shutil.move("llama.gguf", "folder/llama.gguf")
    coarse = cli("coarsen", "folder", *ASKED)
    assert (coarse.code, coarse.err) == (0, "")


@pytest.mark.slow
def test_a_class_that_gguf_has_no_layout_for_is_refused(cli, folder: Path, models: Path) -> None:
    result = cli("export", models / "bert.pt", "-o", "bert.gguf")
    assert result.code == 1
    assert "BertForMaskedLM is no class that mlgraph writes as GGUF (llama, qwen2, qwen3)" in result.err
    assert not Path("bert.gguf").exists()


def test_an_onnx_graph_computes_what_the_model_does(cli, folder: Path) -> None:
    if importlib.util.find_spec("onnxscript") is None:
        result = cli("export", "saved.pt", "-o", "mlp.onnx")
        assert (result.code, "pip install 'mlgraph[onnx]'" in result.err) == (1, True)
        return
    onnxruntime = pytest.importorskip("onnxruntime")
    result = cli("export", "saved.pt", "-o", "mlp.onnx")
    assert (result.code, result.err) == (0, "")
    x = torch.randn(3, 6)
    session = onnxruntime.InferenceSession("mlp.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), mlgraph.emit(mlgraph.load("saved.pt"))(x))
