"""V-cycles against training from scratch on images, top-1 beside loss.

``python -m tests.benchmarks.fashion --scale full --out runs/fashion`` trains a vision transformer with the
sizes of DeiT-tiny (192 wide, 12 layers, 3 heads) on Fashion-MNIST in patches of 7 x 7, 64 images a step:
from scratch for 400 steps, and by V-cycles of 300 steps at level 1 (20 of them first) and 200 at level 2.
Three heads cannot be halved: heads keep their number and get half as wide. ``--scale small`` is a fourth of
the width and half of the steps. How runs are tuned and compared: ``vcycles``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import mlgraph
from mlgraph.program import Program
from mlgraph.train.data.images import IdxImages
from tests.benchmarks.vcycles import Loaders, Task, main
from tests.tools.fetch import fetch

Batch = tuple[torch.Tensor, torch.Tensor]


def model(width: int, seed: int) -> Program:
    """A DeiT for images of 28 x 28, captured."""
    import timm

    torch.manual_seed(seed)
    deit = timm.create_model(
        "deit_tiny_patch16_224", img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=width
    )
    return mlgraph.capture(deit, (torch.randn(3, 1, 28, 28),))


def loaders(_: Path) -> Loaders:
    """The 60,000 images, flipped at random, and the first 2,500 of those held out."""
    folder = next(fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")).parent

    def images(part: str, flip: bool) -> IdxImages:
        pixels, labels = (folder / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        return IdxImages(pixels, labels, 28, 1, flip=flip)

    held_out = torch.utils.data.Subset(images("t10k", False), range(2500))
    return (
        DataLoader(images("train", True), 64, shuffle=True, drop_last=True),
        DataLoader(held_out, 250),
    )


def loss(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy."""
    return F.cross_entropy(outputs, batch[1])


def top1(outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
    """The share of images whose class is the first guess."""
    return {"top1": (outputs.argmax(-1) == batch[1]).float().mean()}


def task(width: int, steps: int, seeds: int) -> Task:
    """Training at a width: three quarters of the steps and half as many coarse ones for a V-cycle."""
    return Task(
        partial(model, width),
        loaders,
        steps,
        fine_steps=steps * 3 // 4,
        init_steps=steps // 20,
        coarse_steps=steps // 2,
        seeds=seeds,
        axes={"hidden": 2, "mlp": 2, "head_dim": 2},
        loss=loss,
        metric=top1,
        weight_decay=0.05,
        rates=(5e-4, 1e-3, 2e-3, 4e-3),
        evaluations=10,
    )


if __name__ == "__main__":
    main({"full": task(192, 400, 3), "small": task(48, 200, 2)}, __doc__)
