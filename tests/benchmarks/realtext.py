"""V-cycles against training from scratch on real English text: the experiment behind what the project claims.

``python -m tests.benchmarks.realtext --scale full --out runs/realtext`` trains a GPT of d=128, 8 layers and
4 heads on a byte-level BPE of 2,048 tokens with 16 x 128 tokens a step: from scratch for 2,000 steps, and
by V-cycles. Both sides are tuned over the same learning rates, level by level, then repeated with further
seeds at their best: the coarse level's rate is the one with the lowest loss at the end of the coarse level,
the fine level's the one with the lowest final loss. ``--scale small`` is the same with a fifth of the steps
and a model a tenth in cost. Runs that are finished are not run again, so the command can be stopped and
repeated, and several processes may share the work by ``--only``; the table at the end says what there is.
"""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import mlgraph
from mlgraph.program import Program
from mlgraph.train import Optimizer, Phase, Refine, Schedule, plain, run, vcycle
from mlgraph.train.compare import curve, saving, spread
from mlgraph.train.metering import read_metrics
from mlgraph.train.text import TokenBlocks, load_tokenizer, tokenize
from tests.tools.fetch import fetch

RATES = (1e-3, 2e-3, 4e-3, 8e-3)


@dataclass(frozen=True)
class Scale:
    """Sizes of model, batch and run."""

    width: int
    layers: int
    heads: int
    sequence: int
    vocabulary: int
    steps: int
    init_steps: int
    coarse_steps: int
    seeds: int


SCALES = {
    "full": Scale(128, 8, 4, 128, 2048, 2000, 100, 1000, 3),
    "small": Scale(64, 8, 4, 64, 1024, 400, 20, 200, 2),
}


@dataclass(frozen=True)
class Recipe:
    """From scratch, or a V-cycle: factors, alpha and how optimizer state crosses levels."""

    name: str
    depth: int = 1
    width: int = 1
    alpha: float = 0.25
    state: str = "carry"

    @property
    def cycles(self) -> bool:
        """Whether this is a V-cycle."""
        return self.depth * self.width > 1

    def phases(self, scale: Scale, rate: float, coarse_rate: float | None) -> list[Phase]:
        """The phase program at the given rates of level 1 and level 2."""
        if not self.cycles:
            return plain(scale.steps, lr=rate)
        return vcycle(
            round(0.75 * scale.steps),
            scale.init_steps,
            scale.coarse_steps,
            depth=self.depth,
            width=self.width,
            alpha=self.alpha,
            lr=(rate, rate if coarse_rate is None else coarse_rate),
        )


RECIPES = (
    Recipe("scratch"),
    Recipe("both-0.25", 2, 2),
    Recipe("depth-0.25", 2, 1),
    Recipe("width-0.25", 1, 2),
    Recipe("both-0.5", 2, 2, 0.5),
    Recipe("both-1", 2, 2, 1.0),
    Recipe("both-0.25-reset", 2, 2, state="reset"),
    Recipe("both-0.25-asymmetric", 2, 2, state="asymmetric"),
)


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
    tokens = tokenize(corpus(), tokenizer, cache / f"tokens-{scale.vocabulary}")
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


def train(
    phases: Sequence[Phase], scale: Scale, rate: float, seed: int, folder: Path, state: str = "carry"
) -> Path:
    """One run; where it was finished before, nothing is done."""
    if not (folder / "done").exists():
        training, held_out = loaders(scale, folder.parent / "cache")
        run(
            model(scale, seed),
            phases,
            training,
            held_out,
            None,
            folder,
            optimizer=Optimizer(lr=rate),
            optimizer_state=state,
            schedule=Schedule("cosine", warmup=scale.steps // 40, final=0.0, rewarm=scale.steps // 100),
            seed=seed,
            eval_every=max(scale.steps // 20, 1),
            log_every=max(scale.steps // 40, 1),
            checkpoint_every=max(scale.steps // 5, 1),
            keep=1,
        )
        (folder / "done").touch()
    return folder


def final_loss(folder: Path, level: int = 1) -> float:
    """The last evaluation at a level."""
    return curve(read_metrics(folder / "metrics.jsonl"), "flops", level=level)[-1][1]


def best_coarse_rate(recipe: Recipe, scale: Scale, out: Path) -> float:
    """The rate with the lowest loss at the end of the coarse level, of runs that stop there."""
    found = {}
    for rate in RATES:
        phases = recipe.phases(scale, rate, rate)
        descent = list(takewhile(lambda phase: not isinstance(phase, Refine), phases))
        folder = out / f"descent-{recipe.depth}x{recipe.width}-lr{rate:g}-seed0"
        found[rate] = final_loss(train(descent, scale, rate, 0, folder), level=2)
    return min(found, key=lambda rate: found[rate])


def tuned(recipe: Recipe, scale: Scale, rates: Sequence[float], seeds: int, out: Path) -> list[Path]:
    """The runs of a recipe at its best rates, one per seed."""
    coarse = best_coarse_rate(recipe, scale, out) if recipe.cycles else None
    mark = "" if coarse is None else f"-{coarse:g}"

    def at(rate: float, seed: int) -> Path:
        folder = out / f"{recipe.name}-lr{rate:g}{mark}-seed{seed}"
        return train(recipe.phases(scale, rate, coarse), scale, rate, seed, folder, recipe.state)

    best = min(rates, key=lambda rate: final_loss(at(rate, 0)))
    return [at(best, seed) for seed in range(seeds)]


def main() -> None:
    """Train what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of recipes")
    parser.add_argument("--rates", nargs="*", type=float, default=list(RATES))
    parser.add_argument("--seeds", type=int, help="seeds of the best rate of each recipe")
    options = parser.parse_args()
    scale = SCALES[options.scale]
    best: dict[str, list[Path]] = {}
    for recipe in RECIPES:
        if not options.only or recipe.name in options.only:
            seeds = options.seeds or scale.seeds
            best[recipe.name] = tuned(recipe, scale, options.rates, seeds, options.out)
            table(best)


def table(best: dict[str, list[Path]]) -> None:
    """Final losses, and savings over scratch at its final loss, seed by seed."""
    base = [read_metrics(folder / "metrics.jsonl") for folder in best.get("scratch", ())]
    print(
        f"\n{'recipe':22} {'run':34} {'loss':>8} {'FLOPs':>10} {'saved FLOPs':>12} {'saved time':>11}",
        flush=True,
    )
    for name, folders in best.items():
        shares = []
        for number, folder in enumerate(folders):
            history = read_metrics(folder / "metrics.jsonl")
            flops, loss = curve(history, "flops")[-1]
            baseline = base[min(number, len(base) - 1)] if base else history
            found = [saving(baseline, history, cost) for cost in ("flops", "seconds")]
            words = ["never" if s is None or s.share is None else f"{s.share:+.1%}" for s in found]
            shares += [found[0]] if found[0] is not None else []
            print(
                f"{name:22} {folder.name:34} {loss:8.4f} {flops:10.3g} {words[0]:>12} {words[1]:>11}",
                flush=True,
            )
        over = spread(shares)
        if over.deviation is not None and over.mean is not None:
            print(
                f"{name:22} {'over seeds':34} {'':8} {'':10} {over.mean:+12.1%} ± {over.deviation:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
