"""A DeiT-tiny-shaped ViT on Fashion-MNIST by a V-cycle, loss and top-1.

python examples/deit_fashion_mnist.py FOLDER [--steps 200]

FOLDER holds the four idx files (train-images-idx3-ubyte.gz and so on), as Debian's dataset-fashion-mnist
installs them in /usr/share/datasets/fashion-mnist.
"""

import argparse
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader

from mlgraph.train import Optimizer, Schedule, run, vcycle
from mlgraph.train.data.images import IdxImages


def loss(outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs, batch[1])


def top1(outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"top1": (outputs.argmax(-1) == batch[1]).float().mean()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    steps, folder = options.steps, options.folder
    train = IdxImages(
        folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz", 28, 1, flip=True
    )
    test = IdxImages(
        folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz", 28, 1, flip=False
    )
    torch.manual_seed(0)
    model = timm.create_model(
        "deit_tiny_patch16_224",
        img_size=28,
        patch_size=4,
        in_chans=1,
        num_classes=10,
        embed_dim=options.width,
        num_heads=4,
    )
    result = run(
        model,
        vcycle(steps, init_steps=steps // 10, coarse_steps=steps // 2, alpha=0.5),
        DataLoader(train, batch_size=options.batch, shuffle=True, drop_last=True),
        DataLoader(test, batch_size=250),
        loss,
        metric=top1,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.05),
        schedule=Schedule("cosine", warmup=20),
        eval_batches=4,
        progress=True,
    )
    for record in result.history:
        if "eval_loss" in record:
            print(f"level {record['level']}  loss {record['eval_loss']:.3f}  top-1 {record['eval_top1']:.1%}")


if __name__ == "__main__":
    main()
