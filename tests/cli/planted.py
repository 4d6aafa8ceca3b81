"""Small models, each with one cause that ties or freezes a dim; ``explain`` has to find it."""

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, HEAD_DIM, INNER, VOCABULARY = 24, 4, 6, 20, 31


@torch.library.custom_op("mlgraph_tests::scramble", mutates_args=())
def scramble(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1).clone()


@scramble.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(self.up(x))
        return self.down(inner)


class Language(nn.Module):
    """A table that is looked up and also the head, with a residual branch between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.mlp = Mlp()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.mlp(x)
        x = self.norm(x)
        return F.linear(x, self.embed.weight)


class Attention(nn.Module):
    """Queries in ``groups`` that share keys and values; rotary position embeddings on request."""

    def __init__(self, groups: int = 1, rotary: bool = False) -> None:
        super().__init__()
        self.groups, self.rotary = groups, rotary
        self.query = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.key = nn.Linear(WIDTH, HEADS // groups * HEAD_DIM)
        self.value = nn.Linear(WIDTH, HEADS // groups * HEAD_DIM)
        self.out = nn.Linear(HEADS * HEAD_DIM, WIDTH)
        self.register_buffer("frequencies", torch.rand(HEAD_DIM // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)
        key = self.key(x).view(batch, length, HEADS // self.groups, HEAD_DIM).transpose(1, 2)
        value = self.value(x).view(batch, length, HEADS // self.groups, HEAD_DIM).transpose(1, 2)
        if self.rotary:
            angles = torch.arange(length)[:, None] * self.frequencies
            query, key = self.rotate(query, angles), self.rotate(key, angles)
        if self.groups > 1:
            key = self.repeated(key)
            value = self.repeated(value)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD_DIM)
        return self.out(mixed)

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        batch, heads, length, width = x.shape
        x = x[:, :, None].expand(batch, heads, self.groups, length, width)
        return x.reshape(batch, heads * self.groups, length, width)

    def rotate(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Scrambled(nn.Module):
    """An op that mlgraph knows no rule for, in the middle of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.up(x))
        inner = torch.ops.mlgraph_tests.scramble(inner)
        return self.down(inner)


class Returned(nn.Module):
    """A head whose result is what the model returns."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.head = nn.Linear(INNER, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.up(x))
        return torch.sigmoid(self.head(inner))


class Joined(nn.Module):
    """Two branches side by side, read by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(WIDTH, INNER)
        self.right = nn.Linear(WIDTH, HEADS)
        self.out = nn.Linear(INNER + HEADS, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(self.left(x)), torch.relu(self.right(x))
        both = torch.cat([left, right], dim=-1)
        return self.out(both)


def ids() -> torch.Tensor:
    return torch.arange(15).reshape(3, 5) % VOCABULARY


def states() -> torch.Tensor:
    return torch.randn(3, 5, WIDTH)
