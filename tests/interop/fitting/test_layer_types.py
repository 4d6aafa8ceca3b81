"""Settings with an entry per layer follow a change of depth that several chains of one stack share."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3Model

import mlgraph
from mlgraph.interop.fitting.config_tree import Layers
from mlgraph.interop.fitting.moved import layer_picks
from mlgraph.program import Program

KINDS = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]


def in_runs() -> Program:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=97,
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        layer_types=KINDS,
        sliding_window=3,
        use_sliding_window=True,
        use_cache=False,
    )
    return mlgraph.capture(Qwen3Model(config), (), {"input_ids": torch.randint(97, (3, 7))})


def test_kinds_of_layers_in_runs_are_picked_run_by_run() -> None:
    program = in_runs()
    assert [len(chain) for chain in program.blocks] == [2, 2]
    coarse = mlgraph.coalesce(program, depth=2)
    assert next(layer_picks(coarse)) == Layers(4, (0, 2))
    assert next(layer_picks(program), None) is None
