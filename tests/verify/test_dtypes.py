"""Checks in float64 of models whose own graph names other dtypes, and of what users bring."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mlgraph import capture, emit, verify


class Patches(nn.Module):
    """A convolutional stem before a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(x + self.down(torch.relu(self.up(x))))


class Rotary(nn.Module):
    """Queries turned by complex positions in float32 and cast back; ``stored`` keeps them in a buffer."""

    def __init__(self, stored: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.q, self.k, self.v, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.stored = stored
        if stored:
            self.register_buffer("turns", self.positions(16))

    def positions(self, length: int) -> torch.Tensor:
        angles = torch.arange(length).float()[:, None] * torch.logspace(0, -2, 4)
        return torch.polar(torch.ones(length, 4), angles)

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        turns = self.turns[: x.shape[1]] if self.stored else self.positions(x.shape[1])
        return torch.view_as_real(pairs * turns).flatten(2).type_as(x)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        q, k = self.turn(self.q(x)), self.turn(self.k(x))
        return self.head((q @ k.transpose(1, 2)).float().softmax(-1).type_as(q) @ self.v(x))


class Adapter(nn.Module):
    """A frozen linear map beside a low-rank one, which casts to its own dtype."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_a = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_b = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})
        self.dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result, kept = self.base_layer(x), x.dtype
        for name, first in self.lora_a.items():
            given = self.dropout[name](x.to(first.weight.dtype))
            result = result + self.lora_b[name](first(given)) * 2.0
        return result.to(kept)


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Adapter(nn.Linear(6, 16)), Adapter(nn.Linear(16, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


MODELS = {
    "patches": (Patches, torch.randn(2, 3, 8, 8)),
    "rotary": (lambda: Rotary(stored=False), torch.randint(0, 20, (2, 5))),
    "rotary in a buffer": (lambda: Rotary(stored=True), torch.randint(0, 20, (2, 5))),
    "adapters": (Adapted, torch.randn(2, 5, 6)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_report_and_no_error(name: str) -> None:
    torch.manual_seed(0)
    make, x = MODELS[name]
    program = capture(make().eval(), (x,))
    assert verify(program), str(verify(program))
    double = emit(program, dtype=torch.float64).eval()
    given = x.double() if x.is_floating_point() else x
    result = double(given)
    assert result.dtype is torch.float64
    torch.testing.assert_close(result.float(), emit(program).eval()(x), rtol=1e-4, atol=1e-5)
