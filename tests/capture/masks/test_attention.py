"""Attention masks: what is proved about them holds, and near misses are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import transformers
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

from mlgraph import capture
from mlgraph.graph.interpret import run
from mlgraph.program import Program
from tests.strategies import THOROUGH

aten = torch.ops.aten
Mask = Callable[[torch.Tensor], torch.Tensor]


class Masked(nn.Module):
    """Self-attention under a mask made from ``x`` of shape [batch, length, 8]."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x * 2, x + 1, attn_mask=self.mask(x))


def rows(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[1])[:, None]


def columns(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[1])[None, :]


def triangle(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()


def positions(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[1]).unsqueeze(0).expand(x.shape[0], -1)


def packed(x: torch.Tensor) -> torch.Tensor:
    """Documents of a packed row begin where positions do not follow each other."""
    ids = positions(x)
    document = (torch.diff(ids, prepend=ids[:, :1] - 1, dim=-1) != 1).cumsum(-1)
    batch = torch.arange(x.shape[0])[:, None, None]
    query, key = rows(x)[None], columns(x)[None]
    return (document[batch, query] == document[batch, key]) & (ids[batch, key] <= ids[batch, query])


def least(x: torch.Tensor) -> float:
    return torch.finfo(x.dtype).min


CAUSAL: dict[str, Mask] = {
    "less or equal": lambda x: columns(x) <= rows(x),
    "greater": lambda x: ~(columns(x) > rows(x)),
    "strictly less than the next": lambda x: columns(x) < rows(x) + 1,
    "difference": lambda x: rows(x) - columns(x) >= 0,
    "tril": triangle,
    "not triu": lambda x: ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1),
    "batch": lambda x: (columns(x) <= rows(x)).expand(x.shape[0], -1, -1),
    "and true": lambda x: (columns(x) <= rows(x)) & (columns(x) >= 0),
    "packed": packed,
    "where": lambda x: torch.where(columns(x) <= rows(x), 0.0, -torch.inf),
    "masked_fill": lambda x: torch.zeros(x.shape[1], x.shape[1]).masked_fill(~triangle(x), -torch.inf),
    "triu of infinities": lambda x: torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1),
    "inverted floats": lambda x: (1.0 - triangle(x).float()) * least(x),
    "transposed": lambda x: (rows(x) <= columns(x)).transpose(0, 1),
}
TRUE: dict[str, Mask] = {
    "ones": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool),
    "nonnegative": lambda x: columns(x) + rows(x) >= 0,
    "or": lambda x: (columns(x) <= rows(x)) | torch.ones(1, 1, dtype=torch.bool),
    "zeros": lambda x: torch.zeros(x.shape[1], x.shape[1]),
}
OTHER: dict[str, Mask] = {
    "no diagonal": lambda x: (columns(x) < rows(x)) | (columns(x) == 0),
    "one ahead": lambda x: columns(x) <= rows(x) + 1,
    "window": lambda x: (columns(x) <= rows(x)) & (columns(x) > rows(x) - 4),
    "anti-causal": lambda x: columns(x) >= rows(x),
    "tril above": lambda x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(2),
    "strided": lambda x: 2 * columns(x) <= rows(x),
    "by data": lambda x: (columns(x) <= rows(x)) & (x[:, None, :, 0] > -9),
    "mild": lambda x: torch.where(columns(x) <= rows(x), 0.0, -1.0),
    "up to a length": lambda x: columns(x) + 0 * rows(x) < 11,
}


def attention(program: Program) -> list[tuple[Any, bool]]:
    """Mask and causality of each attention in a program."""
    found = []
    for node in program.graph.nodes:
        if node.target is aten.scaled_dot_product_attention.default:
            causal = node.args[5] if len(node.args) > 5 else node.kwargs.get("is_causal", False)
            mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
            found.append((mask, causal))
    return found


def check(mask: Mask, program: Program) -> None:
    for batch, length in ((2, 3), (3, 11), (5, 17)):
        x = torch.randn(batch, length, 8)
        torch.testing.assert_close(run(program, (), {"x": x}), Masked(mask)(x))


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_masks_are_proved(name: str) -> None:
    program = capture(Masked(CAUSAL[name]), (torch.randn(3, 7, 8),))
    assert attention(program) == [(None, True)]
    assert not any(node.target is aten.arange.default for node in program.graph.nodes)
    check(CAUSAL[name], program)


@pytest.mark.parametrize("name", TRUE)
def test_masks_true_everywhere_go(name: str) -> None:
    program = capture(Masked(TRUE[name]), (torch.randn(3, 7, 8),))
    assert attention(program) == [(None, False)]
    check(TRUE[name], program)


@pytest.mark.parametrize("name", OTHER)
def test_other_masks_stay(name: str) -> None:
    # at this length the last one is true everywhere, but not at others
    program = capture(Masked(OTHER[name]), (torch.randn(3, 7, 8),))
    ((mask, causal),) = attention(program)
    assert mask is not None
    assert not causal
    check(OTHER[name], program)


class Crossed(nn.Module):
    """A triangle over queries and keys of different lengths is not what is_causal means by one."""

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(k.shape[1])[None, :] <= torch.arange(q.shape[1])[:, None]
        return F.scaled_dot_product_attention(q, k, k, attn_mask=mask)


def test_lengths_must_be_the_same_for_every_input() -> None:
    program = capture(Crossed(), (torch.randn(3, 7, 8), torch.randn(3, 5, 8)))
    ((mask, causal),) = attention(program)
    assert mask is not None
    assert not causal


_LEAVES = st.sampled_from([
    *(f"{a} {op} {b}" for a in ("q", "k") for op in ("<=", "<", ">=", "==") for b in ("q", "k", "2")),
    "q - k >= 0", "q - k < 3", "q + k >= 0", "k <= q + 1", "k * 2 <= q",
])  # fmt: skip


@settings(max_examples=200 if THOROUGH else 8)
@given(
    first=_LEAVES,
    second=_LEAVES,
    third=_LEAVES,
    join=st.sampled_from(["({0}) & ({1})", "({0}) | ({1})", "~({0}) & ({1})", "(({0}) | ({1})) & ({2})"]),
    additive=st.booleans(),
)
def test_whatever_is_proved_is_so(first: str, second: str, third: str, join: str, additive: bool) -> None:
    code = compile(join.format(first, second, third), "mask", "eval")

    def mask(x: torch.Tensor) -> torch.Tensor:
        keep = eval(code, {"q": rows(x), "k": columns(x)})
        # a row that attends to nothing has no defined result
        keep = keep.expand(x.shape[1], x.shape[1]) | (columns(x) == rows(x))
        return torch.where(keep, 0.0, -torch.inf) if additive else keep

    check(mask, capture(Masked(mask), (torch.randn(3, 7, 8),)))


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPT2Config(
            n_embd=16, n_layer=1, n_head=2, vocab_size=31, bos_token_id=0, eos_token_id=0
        ),
        transformers.LlamaConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=31
        ),
    ],
    ids=["gpt2", "llama"],
)
def test_decoders_without_a_padding_mask_are_causal(config: transformers.PretrainedConfig) -> None:
    config.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(config)
    program = capture(model, (), {"input_ids": torch.randint(0, 31, (3, 7))})
    assert attention(program) == [(None, True)]
