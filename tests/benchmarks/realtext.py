"""V-cycles against training from scratch on real English text.

``python -m tests.benchmarks.realtext --scale full --out runs/realtext`` trains a GPT of d=128, 8 layers and
4 heads on a byte-level BPE of 2,048 tokens with 16 x 128 tokens a step: from scratch for 2,000 steps, and
by V-cycles of 1,500 steps at level 1 (100 of them first) and 1,000 at level 2. ``--scale small`` is the
same with a fifth of the steps and a model a tenth in cost. How runs are tuned and compared: ``vcycles``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import mlgraph
from mlgraph.program import Program
from mlgraph.train.data.text import TokenBlocks, tokenize
from mlgraph.train.data.tokenizer import load_tokenizer
from tests.benchmarks.vcycles import Task, main
from tests.tools.fetch import fetch


@dataclass(frozen=True)
class Scale:
    """Sizes of model and batch."""

    width: int
    layers: int
    heads: int
    sequence: int
    vocabulary: int


SCALES = {"full": Scale(128, 8, 4, 128, 2048), "small": Scale(64, 8, 4, 64, 1024)}


def corpus() -> Iterator[str]:
    """The English text of a pinned package, page by page in the order of names, without its markup."""
    pages = sorted(path for path in fetch("anarchism").rglob("*.html") if path.is_file())
    for page in pages:
        text = page.read_text(encoding="utf-8", errors="replace")
        body = re.sub(r"(?s)<(script|style|head).*?</\1>", " ", text)
        plain_text = html.unescape(re.sub(r"<[^>]+>", " ", body))
        yield re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", plain_text)).strip() + "\n"


def loaders(scale: Scale, cache: Path) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training blocks, and 64 evaluation blocks from the last twentieth of the text."""
    tokenizer = load_tokenizer(f"bpe:{scale.vocabulary}", corpus(), cache / f"tokenizer-{scale.vocabulary}")
    tokens = tokenize(corpus(), tokenizer.model, cache / f"tokens-{scale.vocabulary}")
    cut = int(0.95 * len(tokens))
    held_out = tokens[cut:][: 128 * scale.sequence]
    train = TokenBlocks(tokens[:cut], scale.sequence)
    return (
        DataLoader(train, 16, shuffle=True, drop_last=True, collate_fn=_collate),
        DataLoader(TokenBlocks(held_out, scale.sequence), 32, collate_fn=_collate),
    )


def _collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([sample["input_ids"] for sample in samples])
    return {"input_ids": ids, "labels": ids}


def model(scale: Scale, seed: int) -> Program:
    """A GPT-2 without dropout, captured with its loss."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=scale.vocabulary,
        n_positions=scale.sequence,
        n_embd=scale.width,
        n_layer=scale.layers,
        n_head=scale.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    ids = torch.arange(3 * 17).reshape(3, 17)
    return mlgraph.capture(transformers.GPT2LMHeadModel(config), kwargs={"input_ids": ids, "labels": ids})


def task(scale: str, steps: int, seeds: int) -> Task:
    """Training at a scale: three quarters of the steps and half as many coarse ones for a V-cycle."""
    sizes = SCALES[scale]
    return Task(
        partial(model, sizes),
        partial(loaders, sizes),
        steps,
        fine_steps=steps * 3 // 4,
        init_steps=steps // 20,
        coarse_steps=steps // 2,
        seeds=seeds,
    )


if __name__ == "__main__":
    main({"full": task("full", 2000, 3), "small": task("small", 400, 2)}, __doc__)
