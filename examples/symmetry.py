"""Does interpolation break the symmetry that copying makes?

A small GPT is coarsened to half width and grown back, so that every neuron has a twin. Twins get equal
gradients, so training alone never tells them apart; mixing in the weights from before does. This trains the
copy and three mixes side by side and plots the share of neurons that still have a twin.

    python examples/symmetry.py [--steps 60] [--out symmetry.png]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch
from torch import nn

import mlgraph
from mlgraph.verify.twins import symmetry

if TYPE_CHECKING:
    from mlgraph.program import Program

VOCABULARY, LENGTH, BATCH = 64, 24, 16


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, width: int = 64, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batch(step: int) -> torch.Tensor:
    """Sequences of a noisy rule: each token follows from the two before."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=draw)
    for i in range(2, LENGTH):
        keep = torch.rand(BATCH, generator=draw) < 0.1
        ids[:, i] = torch.where(keep, ids[:, i], (3 * ids[:, i - 1] + ids[:, i - 2]) % VOCABULARY)
    return ids


def twins(program: Program) -> float:
    """Share of mlp neurons that have a near-identical twin."""
    return next(row.near_share for row in symmetry(program).rows if row.axis == "mlp")


def train(program: Program, steps: int, every: int, start: int = 0) -> list[tuple[int, float, float]]:
    """(step, share with a twin, loss) along the way."""
    module = mlgraph.emit(program)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    rows = []
    for step in range(steps + 1):
        ids = batch(start + step)
        logits = module(ids)
        loss = nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1), ids[:, 2:].flatten())
        if step % every == 0:
            rows.append((step, twins(module.program), float(loss.detach())))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", default="symmetry.png")
    options = parser.parse_args()
    torch.manual_seed(0)
    before = mlgraph.capture(GPT(), (batch(0),))
    train(before, options.steps, options.steps)
    copied = mlgraph.decoalesce(mlgraph.coalesce(before, width=2))
    print(f"{'alpha':>6}{'step':>6}{'twins':>8}{'loss':>8}")
    curves = {}
    for alpha in (1.0, 0.75, 0.5, 0.25):
        mixed = mlgraph.interpolate(before, copied, alpha=alpha)
        curves[alpha] = train(mixed, options.steps, max(1, options.steps // 6), start=options.steps)
        for step, share, loss in curves[alpha]:
            print(f"{alpha:>6}{step:>6}{share:>8.0%}{loss:>8.3f}")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5))
    for alpha, rows in curves.items():
        steps, shares, losses = zip(*rows, strict=True)
        left.plot(steps, shares, label=f"alpha {alpha}")
        right.plot(steps, losses, label=f"alpha {alpha}")
    left.set(xlabel="training steps", ylabel="mlp neurons with a twin", ylim=(-0.05, 1.05))
    right.set(xlabel="training steps", ylabel="loss")
    left.legend()
    figure.tight_layout()
    figure.savefig(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
