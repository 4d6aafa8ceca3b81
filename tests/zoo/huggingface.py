"""What entries of transformers share: calls, and fields in the words of older configuration classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf
from torch import nn

from tests.zoo.registry import VOCABULARY, Scale, attention_mask, entry, token_ids

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Fields = dict[str, Any] | Callable[[Scale], dict[str, Any]]

SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def resolve(fields: Fields, s: Scale) -> dict[str, Any]:
    return fields(s) if callable(fields) else fields


def make(model: str, config: str, fields: dict[str, Any]) -> nn.Module:
    return getattr(hf, model)(getattr(hf, config)(**fields))


def gpt(
    name: str, model: str, config: str, fields: Callable[[Scale], dict[str, Any]], **options: Any
) -> None:
    """A decoder with its own words for its sizes."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        merged = {"vocab_size": VOCABULARY, "use_cache": False} | SPECIAL | fields(s)
        return make(model, config, merged), (), {"input_ids": token_ids(), "attention_mask": attention_mask()}


def classic(s: Scale) -> dict[str, Any]:
    return {
        "hidden_size": s.width(24),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "intermediate_size": s.width(40),
        "max_position_embeddings": 31,
    }


def openai(s: Scale) -> dict[str, Any]:
    return {"n_embd": s.width(24), "n_layer": s.depth(4), "n_head": s.width(4), "n_positions": 31}
