"""A GPT on text by a V-cycle, beside training from scratch. Runs in minutes on a CPU.

python examples/gpt_vcycle.py [TEXT FILE] [--steps 200]
"""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from mlgraph.train import Optimizer, Schedule, plain, run, vcycle
from mlgraph.train.data.text import TokenBlocks
from mlgraph.train.data.tokenizer import train_bpe

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def blocks(path: Path | None) -> tuple[TokenBlocks, TokenBlocks]:
    paths = [path] if path else sorted(STANDARD_LIBRARY.glob("[a-m]*.py"))
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in paths]
    tokenizer = train_bpe(texts, 1024)
    ids = torch.tensor([i for encoding in tokenizer.encode_batch(texts) for i in encoding.ids]).numpy()
    cut = int(0.95 * len(ids))
    return TokenBlocks(ids[:cut], 64), TokenBlocks(ids[cut:], 64)


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([sample["input_ids"] for sample in samples])
    return {"input_ids": ids, "labels": ids}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    train, held_out = blocks(options.text)
    steps = options.steps
    recipes = {
        "scratch": plain(steps),
        "V-cycle": vcycle(steps, init_steps=steps // 10, coarse_steps=steps // 2, alpha=0.5),
    }
    for name, phases in recipes.items():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=1024, n_positions=64, n_embd=64, n_layer=4, n_head=4, use_cache=False)
        result = run(
            GPT2LMHeadModel(config),
            phases,
            DataLoader(train, batch_size=16, shuffle=True, collate_fn=collate),
            DataLoader(held_out, batch_size=32, collate_fn=collate),
            optimizer=Optimizer(lr=3e-3),
            schedule=Schedule("cosine", warmup=10, rewarm=5),
            eval_every=max(steps // 10, 1),
            eval_batches=4,
            progress=True,
        )
        last = result.history[-1]
        print(f"{name}: loss {last['eval_loss']:.3f}, {last['flops']:.3g} FLOPs, {last['seconds']:.0f} s")
    print("Neither side was tuned: what a recipe saves is read off tuned runs (docs/experiments.md).")


if __name__ == "__main__":
    main()
