from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from mlgraph.cli.app import run as mlgraph_command
from mlgraph.errors import FileError
from mlgraph.interop.heads import class_with_head
from mlgraph.interop.open import open_source
from mlgraph.program import HuggingFaceOrigin
from tests.train.models import idx_files

GPT = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 320,
    "n_positions": 32,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CONFIG = """
model = "hf:gpt.json"
out = "runs/cycle"
[data]
task = "causal-lm"
train = ["text.txt"]
tokenizer = "bpe:320"
sequence = 16
batch = 4
[recipe]
steps = 12
init_steps = 3
coarse_steps = 5
[run]
eval_every = 4
eval_batches = 1
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLGRAPH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "gpt.json").write_text(json.dumps(GPT))
    (tmp_path / "run.toml").write_text(CONFIG)
    lines = (f"{n} green bottles hanging on the wall, and if {n % 7} should fall\n" for n in range(400))
    (tmp_path / "text.txt").write_text("".join(lines))
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    code = mlgraph_command([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.slow
def test_torchrun_starts_the_same_command(work: Path) -> None:
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = []
    for launcher, batch in ([], 4), (together, 2):
        changes = ["--set", f"out=runs/{batch}", "--set", f"data.batch={batch}", "--json"]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "mlgraph", "train", "run.toml", *changes],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout))
    one, two = found
    assert two["flops"] == one["flops"]
    assert json.loads((work / "runs/2/run.json").read_text())["run"]["processes"] == 2


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_a_configured_cycle_trains_resumes_and_reports(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _json(capsys, "train", "run.toml")
    assert first["step"] == 12 + 5
    tokenizer = AutoTokenizer.from_pretrained(first["model"])
    assert tokenizer.decode(tokenizer("green bottles").input_ids) == "green bottles"
    assert tokenizer.eos_token == "<|end|>"
    model = AutoModelForCausalLM.from_pretrained(first["model"])
    assert model(tokenizer("green bottles", return_tensors="pt").input_ids).logits.shape[-1] == 320
    assert _json(capsys, "train", "run.toml")["eval_loss"] == first["eval_loss"]
    plain = _json(capsys, "train", "run.toml", "--set", "out=runs/scratch", "--set", "recipe.kind=plain")
    assert plain["step"] == 12
    assert mlgraph_command(["report", "runs/cycle", "runs/scratch", "-o", "page.html"]) == 0
    assert "saved at the final loss of scratch" in capsys.readouterr().out
    report = _json(capsys, "report", "runs/cycle", "runs/scratch", "-o", "page.html")
    assert (report["baseline"], report["recipes"][0]["runs"]) == (["scratch"], ["cycle"])
    assert set(report["recipes"][0]["saved"]) == {"flops", "seconds"}
    assert "data:image/png" in (work / "page.html").read_text()
    assert mlgraph_command(["train", "run.toml", "--set", "run.optimizer.lr=0.5"]) == 1
    assert "run.optimizer.lr = 0.001, and now run.optimizer.lr = 0.5" in capsys.readouterr().err


IMAGES = """
model = "timm:deit_tiny_patch16_224,img_size=8,patch_size=4,in_chans=1,num_classes=3,embed_dim=12,depth=2"
out = "runs/images"
[data]
task = "image-classification"
train = ["train-images-idx3-ubyte.gz"]
image_size = 8
channels = 1
batch = 4
[recipe]
steps = 4
coarse_steps = 2
width = 1
"""


@pytest.mark.filterwarnings("ignore")
def test_images_are_trained_on_with_their_top_1(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "images.toml").write_text(IMAGES)
    idx_files(work, count=12)
    assert mlgraph_command(["train", "images.toml"]) == 0
    shown = capsys.readouterr()
    assert "top1" in shown.out
    assert "wrote runs/images/model.pt" in shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("phase")]
    assert lines[0].startswith("phase 2/5 train · level 2 · loss")
    assert lines[-1].endswith("step 4 · 100%")


def test_mistakes_in_the_file_are_sentences(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "run.toml").write_text(CONFIG.replace("eval_every", "eval_evry"))
    assert mlgraph_command(["train", "run.toml"]) == 1
    assert "'run.eval_evry': did you mean 'eval_every'?" in capsys.readouterr().err


def test_every_field_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    names = {field["name"] for field in _json(capsys, "train", "--fields")}
    assert {"model", "out", "data.task", "recipe.kind", "run.schedule.kind"} <= names


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
def test_the_demo_ends_in_figures_of_both_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "demo", "--steps", "20")
    assert found["coarse_parameters"] < found["parameters"] / 3
    assert found["scratch"]["step"] == 20
    assert found["cycle"]["step"] == 16 + 10
    assert "saved" not in found  # neither side is tuned
    assert 0 < found["cycle"]["eval_loss"] < 7.0


TRUNK = {
    "vocab_size": 320,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


@pytest.mark.filterwarnings("ignore")
def test_a_trunk_is_given_the_head_that_the_task_needs(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BertModel(BertConfig(**TRUNK)).save_pretrained("trunk")
    masked = ["train", "run.toml", "--set", "model=trunk", "--set", "data.task=masked-lm"]
    short = ["--set", "recipe.kind=plain", "--set", "recipe.steps=2", "--json"]
    assert mlgraph_command([*masked, *short]) == 0
    printed = capsys.readouterr()
    assert "trunk: weights missing in the files, so left at random: cls.predictions" in printed.err
    written = json.loads(Path(json.loads(printed.out)["model"], "config.json").read_text())
    assert written["architectures"] == ["BertForMaskedLM"]
    assert class_with_head("trunk", "masked-lm") == "BertForMaskedLM"
    assert class_with_head("hf:gpt.json", "causal-lm") is None
    assert class_with_head("timm:deit_tiny_patch16_224", "image-classification") is None
    with pytest.raises(FileError, match="no class for image-classification of model type bert"):
        class_with_head("trunk", "image-classification")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_class_that_is_named_is_taken(work: Path) -> None:
    BertModel(BertConfig(**TRUNK)).save_pretrained("trunk")
    program = open_source("trunk", model_class="BertLMHeadModel")
    assert isinstance(program.origin, HuggingFaceOrigin)
    assert program.origin.model_class == "BertLMHeadModel"
    assert open_source("trunk").num_parameters() < program.num_parameters()


def test_a_dry_run_tells_and_writes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(work.iterdir())
    said = _json(capsys, "train", "run.toml", "--dry-run", "--processes", "2")
    assert [phase["level"] for phase in said["phases"]] == [1, 2, 1]
    assert said["processes"] == 2
    assert said["seconds"] > 0
    assert mlgraph_command(["train", "run.toml", "--dry-run", "--memory", "100KB"]) == 1
    assert "needs" in capsys.readouterr().err
    assert mlgraph_command(["train", "run.toml", "--processes", "2"]) == 2
    assert sorted(path for path in work.iterdir() if path.name != "cache") == before
