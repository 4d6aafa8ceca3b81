"""What a change of width keeps or assumes is reported: factors made from widths, and what nothing reads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mlgraph
from mlgraph.program import Program

WIDTH, HEADS, HEAD_DIM = 24, 4, 6


class Scaled(nn.Module):
    """An embedding times √d, attention divided by √head_dim, and factors that depend on nothing."""

    def __init__(self, stored: bool, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEADS * HEAD_DIM) for _ in range(3))
        self.out = nn.Linear(HEADS * HEAD_DIM, WIDTH)
        self.head = nn.Linear(WIDTH, 17)
        self.fused = fused
        self.factor: float | torch.Tensor = math.sqrt(WIDTH)
        if stored:
            self.register_buffer("normalizer", torch.tensor(math.sqrt(WIDTH)), persistent=False)
            self.factor = self.normalizer

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        factor = self.factor
        x = self.embed(ids)
        x = x * (factor.to(x.dtype) if isinstance(factor, torch.Tensor) else factor)
        q, k, v = (f(x).unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) / HEAD_DIM**0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2)) * 0.37
        return self.head(x) * 2


def captured(stored: bool = False, fused: bool = False) -> Program:
    return mlgraph.capture(Scaled(stored, fused), (torch.randint(17, (3, 7)),))


def kept(program: Program) -> list[str]:
    return [str(note) for note in program.notes if note.kind == "kept"]


@pytest.mark.parametrize("stored", [False, True])
def test_the_scale_of_embeddings_is_reported_with_its_width(stored: bool) -> None:
    (note,) = kept(mlgraph.coalesce(captured(stored), width=2))
    assert "4.899" in note
    assert "√hidden" in note or "√embed" in note
    assert "24, now 12" in note
    assert Path(__file__).name in note


@pytest.mark.parametrize("fused", [False, True])
def test_the_scale_of_attention_is_reported_where_heads_grow_narrow(fused: bool) -> None:
    program = captured(fused=fused)
    coarse = mlgraph.coalesce(program, axes={"head_dim": 2})
    (note,) = kept(coarse)
    assert "√head_dim" in note
    assert "6, now 3" in note


def test_what_follows_no_changed_width_is_not_reported() -> None:
    assert kept(mlgraph.coalesce(captured(), axes={"heads": 2})) == []


class Narrow(nn.Module):
    """Four heads of width 16, whose scores are scaled by 1/√16: a number that is also 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(24, 64), nn.Linear(24, 64), nn.Linear(64, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = (f(x).unflatten(-1, (4, 16)).transpose(1, 2) for f in (self.q, self.k))
        mixed = ((q @ k.transpose(-1, -2)) * 0.25).softmax(-1) @ k
        result: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


def test_a_factor_of_a_width_that_stays_follows_no_other() -> None:
    program = mlgraph.capture(Narrow(), (torch.randn(3, 7, 24),))
    assert kept(mlgraph.coalesce(program, axes={"heads": 2})) == []
    (note,) = kept(mlgraph.coalesce(program, axes={"head_dim": 2}))
    assert "1/√head_dim at head_dim = 16, now 8" in note


class Dropping(nn.Module):
    """A dropout rate that equals 1/√d, and a factor of a dim that the batch is folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
        y = self.out(mixed.transpose(1, 2).flatten(2))
        return (y.flatten() / (3 * 7 * 16)).unflatten(0, y.shape)


def test_rates_and_folded_dims_are_no_factors_of_a_width() -> None:
    program = mlgraph.capture(Dropping(), (torch.randn(3, 7, 16),))
    assert kept(mlgraph.coalesce(program, width=2)) == []


def test_growth_reports_and_the_way_back_forgets() -> None:
    program = captured()
    assert len(kept(mlgraph.decoalesce(program, width=2))) == 1
    coarse = mlgraph.coalesce(program, width=2)
    assert kept(mlgraph.decoalesce(coarse)) == []
    assert kept(mlgraph.coalesce(coarse, width=2)) == kept(coarse)


class PartlyRead(nn.Module):
    """Layers of which the first skips its second linear, and a weight that nothing reads at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 7)]) for _ in range(3)
        )
        self.out = nn.Linear(7, WIDTH)
        self.table = nn.Parameter(torch.randn(5, 11))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for index, (one, other) in enumerate(self.layers):
            x = x + one(x)
            if index:
                x = x + self.out(other(x).relu())
        return x


def test_what_nothing_reads_follows_its_twins_or_is_kept_and_either_is_said() -> None:
    program = mlgraph.capture(PartlyRead(), (torch.randint(17, (3, 7)),))
    coarse = mlgraph.coalesce(program, axes={"hidden": 2})
    assert tuple(coarse.tensors["layers.0.1.weight"].shape) == (7, WIDTH // 2)
    assert tuple(coarse.tensors["table"].shape) == (5, 11)
    assert "kept: table[0, 1], since nothing reads this parameter" in map(str, coarse.notes)
    assumed = [note.text for note in coarse.notes if note.kind == "assumed"]
    assert any(text.startswith("layers.0.1.weight[1], which nothing reads") for text in assumed)


class Spare(nn.Module):
    """Layers each with a parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        for layer in self.layers:
            layer.unread = nn.Parameter(torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


def test_parameters_that_blocks_do_not_read_come_back_with_them() -> None:
    program = mlgraph.capture(Spare(), (torch.randn(5, WIDTH),))
    small = mlgraph.coalesce(program, depth=2)
    big = mlgraph.decoalesce(small)
    assert list(big.tensors) == list(program.tensors)
    for block in range(4):
        here, there = f"layers.{block}.unread", f"layers.{block // 2}.unread"
        assert torch.equal(big.tensors[here], small.tensors[there])


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for at, layer in enumerate(self.layers):
            x = x + F.dropout(layer(x), 0.1 * (at // 2), self.training)
        return x


def test_rates_of_dropout_that_differ_within_groups_and_values_that_are_not_finite_are_noted() -> None:
    model = Layered()
    model.layers[1].bias.data[2] = float("-inf")
    program = mlgraph.capture(model, (torch.randn(2, 3, 8),))
    coarse = mlgraph.coalesce(program, depth=2)
    assert [note.subject for note in coarse.notes if note.kind in ("kept", "approximate")] == [
        "layers.0.bias"
    ]
    assert coarse.tensors["layers.0.bias"].isfinite().all()
    notes = mlgraph.coalesce(program, depth=4).notes
    assert any(note.kind == "kept" and "layers drops out at rates that differ" in note for note in notes)


def test_what_failed_its_trial_is_named_where_nothing_changes() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.gelu(self.into(x))
            padded = F.pad(h, (1, 2), value=0.3)
            result: torch.Tensor = self.out(h * F.layer_norm(padded, (WIDTH + 3,))[..., -1:])
            return result

    coarse = mlgraph.coalesce(mlgraph.capture(Padded(), (torch.randn(3, 7, 6),)), width=2)
    told = next(str(note) for note in coarse.notes if "changes nothing" in str(note))
    assert "aten.layer_norm.default makes of copies what are none" in told
    assert "exempt" not in told
