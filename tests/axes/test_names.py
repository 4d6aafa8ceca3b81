"""Names of axes follow from use, however attention is written and whatever modules are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mlgraph
from tests.strategies import Shape, Transformer

WIDTH, HEADS, HEAD_DIM, INNER = 24, 4, 6, 40


def by_matmul(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def by_einsum(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bhlm,bhmd->bhld", torch.einsum("bhld,bhmd->bhlm", q, k).softmax(-1), v)


def by_bmm(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    return torch.bmm(torch.bmm(flat[0], flat[1].mT).softmax(-1), flat[2]).unflatten(0, q.shape[:2])


ATTENTIONS = (by_matmul, by_einsum, by_bmm, nn.functional.scaled_dot_product_attention)


class Block(nn.Module):
    def __init__(self, attention) -> None:
        super().__init__()
        self.attention = attention
        self.table = nn.Embedding(17, WIDTH)
        self.a, self.b, self.c = (nn.Linear(WIDTH, HEADS * HEAD_DIM) for _ in range(3))
        self.d = nn.Linear(HEADS * HEAD_DIM, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.e = nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))
        self.register_buffer("ramp", torch.arange(11.0).view(1, 11, 1), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        split = [f(x).unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for f in (self.a, self.b, self.c)]
        x = x + self.d(self.attention(*split).transpose(1, 2).flatten(2)) + self.ramp
        return x + self.e(self.norm(x))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_heads_and_what_is_inside_them(attention) -> None:
    table = mlgraph.capture(Block(attention), (torch.randint(17, (3, 11)),)).axes
    named = {axis.name: {slot.tensor for slot in axis.slots} for axis in table}
    assert {"a.weight", "b.weight", "c.weight", "d.weight"} <= named["heads"]
    assert {"a.weight", "b.weight"} <= named["head_dim"]
    assert {"c.weight", "d.weight"} <= named["v_dim"]
    assert {"e.0.weight", "e.2.weight"} <= named["mlp"]
    assert {"norm.weight", "e.0.weight", "d.weight"} <= named["hidden"]
    assert named.get("positions", {"ramp"}) == {"ramp"}


class OneSum(nn.Module):
    """Attention whose weights, values and output matrix meet in one einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(17, WIDTH)
        self.a, self.b, self.c = (nn.Parameter(torch.randn(HEADS, WIDTH, HEAD_DIM)) for _ in range(3))
        self.d = nn.Parameter(torch.randn(HEADS, HEAD_DIM, WIDTH))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        q, k, v = (torch.einsum("bte,hed->bhtd", x, weight) for weight in (self.a, self.b, self.c))
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
        return x + torch.einsum("bhqk,bhkd,hde->bqe", weights, v, self.d)


def test_heads_in_a_sum_of_three() -> None:
    table = mlgraph.capture(OneSum(), (torch.randint(17, (3, 11)),)).axes
    named = {axis.name: {slot.tensor for slot in axis.slots} for axis in table}
    assert named["heads"] == {"a", "b", "c", "d"}
    assert (named["head_dim"], named["v_dim"]) == ({"a", "b"}, {"c", "d"})


@pytest.mark.parametrize(("kv_heads", "expected"), [(1, {"heads"}), (2, {"kv_heads", "rep"})])
def test_heads_that_share_one_key_are_heads_and_those_that_share_several_repeat_them(
    kv_heads: int, expected: set[str]
) -> None:
    shape = Shape(hidden=12, kv_heads=kv_heads, rep=4, head_dim=6, mlp=20, depth=1)
    table = mlgraph.capture(Transformer(shape), (torch.randint(17, (3, 7)),)).axes
    assert {a.name for a in table if a.name in ("heads", "kv_heads", "rep")} == expected
