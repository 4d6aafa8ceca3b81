from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import mlgraph
from mlgraph.train import count_flops


def _counted(model: nn.Module, inputs: dict[str, Any]) -> tuple[int, int]:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        outputs = model(**inputs)
        forward = counter.get_total_flops()
        outputs.loss.backward()
    return forward, counter.get_total_flops()


def _language(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    import transformers as t

    ids = torch.arange(33).reshape(3, 11) % 50
    common = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "gpt2":
        config = t.GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=32, use_cache=False, **common)
        return t.GPT2LMHeadModel(config), {"input_ids": ids, "labels": ids}
    if kind == "llama":
        return (
            t.LlamaForCausalLM(t.LlamaConfig(num_key_value_heads=2, use_cache=False, **wide, **common)),
            {"input_ids": ids, "labels": ids},
        )
    if kind == "bert":
        return t.BertForMaskedLM(t.BertConfig(**wide, **common)), {"input_ids": ids, "labels": ids}
    config = t.ViTConfig(image_size=32, patch_size=8, num_labels=10, **wide)
    return t.ViTForImageClassification(config), {
        "pixel_values": torch.randn(2, 3, 32, 32),
        "labels": torch.tensor([1, 2]),
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "vit"])
def test_counts_equal_torchs_counter(kind: str) -> None:
    model, inputs = _language(kind)
    program = mlgraph.capture(model, kwargs=inputs)
    for batch in (inputs, {name: torch.cat([value] * 2) for name, value in inputs.items()}):
        forward, training = _counted(model, batch)
        flops = count_flops(program, batch)
        assert flops.forward == pytest.approx(forward, rel=0.01)
        assert flops.training == pytest.approx(training, rel=0.01)
        assert flops.samples == next(iter(batch.values())).shape[0]
    assert count_flops(program) == count_flops(program, inputs)


class _Products(nn.Module):
    """Contractions of every kind, on [batch, 6, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5, 3, 7))
        self.conv = nn.Conv1d(6, 4, 3, padding=1)
        self.back = nn.ConvTranspose1d(4, 6, 3, padding=1)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.einsum("bsd,de,efg->bsfg", x, self.a, self.b)
        z = self.back(self.conv(x)) @ self.linear(x).transpose(1, 2)
        w = torch.baddbmm(z, z, z) + torch.bmm(z, z)
        return {"loss": y.square().mean() + w.mean()}


def test_every_kind_of_contraction_counts() -> None:
    model, x = _Products(), torch.randn(4, 6, 8)
    program = mlgraph.capture(model, (x,))
    with FlopCounterMode(display=False) as counter:
        loss = model(x)["loss"]
        forward = counter.get_total_flops()
        loss.backward()
    flops = count_flops(program)
    assert flops.forward == pytest.approx(forward, rel=0.01)
    assert flops.training == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_what_does_not_feed_the_loss_has_no_backward() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.used(x).mean(), self.unused(x)

    flops = count_flops(mlgraph.capture(Two(), (torch.randn(3, 8),)))
    one = 2 * 3 * 8 * 8
    assert (flops.forward, flops.training) == (2 * one, 3 * one)
