"""A V-cycle on a module of one's own, with a loss of one's own. Runs in seconds.

python examples/own_module.py
"""

import torch
from torch import nn

from mlgraph.train import Coarsen, Interpolate, Optimizer, Refine, Train, run


class Mixer(nn.Module):
    """Reads eight numbers as a sequence and says which of them is the largest."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.positions = nn.Parameter(0.1 * torch.randn(8, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        x = self.embed(numbers[..., None]) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.score(self.norm(x))[..., 0]


def batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        numbers = torch.randn(64, 8, generator=generator)
        yield numbers, numbers.argmax(-1)


def loss(scores, batch):
    return nn.functional.cross_entropy(scores, batch[1])


def main() -> None:
    torch.manual_seed(0)
    phases = [
        Train(20),
        Coarsen(depth=2, width=2),
        Train(100, lr=4e-3),
        Refine(),
        Interpolate(alpha=0.5),
        Train(80),
    ]
    optimizer = Optimizer(lr=2e-3)
    result = run(Mixer(), phases, batches(), loss=loss, optimizer=optimizer, log_every=20, progress=True)
    for record in result.history:
        if "loss" in record:
            print(f"step {record['step']:4d}  level {record['level']}  loss {record['loss']:.3f}")


if __name__ == "__main__":
    main()
