"""Interpolation with a coarse program: what comes back of it, and what of the detail is kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlgraph
from mlgraph.errors import MlgraphError
from mlgraph.passes import Coalesce, Interpolate
from mlgraph.program import Program
from tests.train.models import program

shares = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
coarsenings = st.sampled_from(
    [
        Coalesce(depth=2),
        Coalesce(width=2),
        Coalesce(2, 2, "halves"),
        Coalesce(4, 4),
        Coalesce(axes={"blocks": (0, 0, 0, 1)}),
        Coalesce(tied="paper", width=2),
    ]
)


def doubles(seed: int = 0) -> Program:
    torch.manual_seed(seed)
    model = program()
    noise = {name: torch.randn(tensor.shape, dtype=torch.float64) for name, tensor in model.tensors.items()}
    return model.replace(tensors=model.tensors.replace(noise))


def trained(coarse: Program) -> Program:
    """The coarse program with other weights, as training leaves it."""
    moved = {name: tensor + torch.randn_like(tensor) for name, tensor in coarse.tensors.items()}
    return coarse.replace(tensors=coarse.tensors.replace(moved))


def near(first: Program, expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(first.tensors[name], tensor, rtol=1e-9, atol=1e-9, msg=name)


@settings(max_examples=12)
@given(coarsenings, shares, shares)
def test_coarsened_again_the_mix_is_that_of_the_coarse_programs(down, alpha, detail):
    """R w = (1 - alpha)·R w₀ + alpha·w_c, whatever the detail, since R P = I."""
    fine = doubles()
    lower = down(fine)
    coarse = trained(lower)
    again = down(Interpolate(alpha, detail)(fine, coarse))
    near(again, {n: (1 - alpha) * t + alpha * coarse.tensors[n] for n, t in lower.tensors.items()})


@settings(max_examples=12)
@given(coarsenings, shares, shares)
def test_the_formula(down, alpha, detail):
    fine = doubles()
    lower = down(fine)
    coarse = trained(lower)
    made = Interpolate(alpha, detail)(fine, coarse)
    up, smooth = mlgraph.decoalesce(coarse).tensors, mlgraph.decoalesce(lower).tensors
    near(
        made,
        {
            name: (1 - alpha) * smooth[name] + alpha * up[name] + detail * (tensor - smooth[name])
            for name, tensor in fine.tensors.items()
        },
    )


@settings(max_examples=8)
@given(coarsenings, shares, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_the_papers_detail_is_the_default_bit_for_bit(down, alpha, dtype):
    fine = doubles()
    fine = fine.replace(tensors=fine.tensors.replace({n: t.to(dtype) for n, t in fine.tensors.items()}))
    coarse = trained(down(fine))
    mix = mlgraph.interpolate(fine, mlgraph.decoalesce(coarse), alpha=alpha)
    for made in (
        Interpolate(alpha, 1.0 - alpha)(fine, coarse),
        Interpolate(alpha)(fine, coarse),
        mlgraph.interpolate(fine, coarse, alpha=alpha),
    ):
        assert all(torch.equal(tensor, mix.tensors[name]) for name, tensor in made.tensors.items())


def test_what_was_not_trained_is_not_corrected():
    fine = doubles()
    near(Interpolate(1.0, 1.0)(fine, Coalesce(2, 2)(fine)), dict(fine.tensors))


def test_shares_by_axis_and_by_name():
    fine = doubles()
    coarse = trained(Coalesce(2, 2)(fine))
    made = Interpolate({"*.norm.*": 0.0, "default": 1.0}, {"mlp": 0.5, "default": 1.0})(fine, coarse)
    up, smooth = mlgraph.decoalesce(coarse).tensors, mlgraph.decoalesce(Coalesce(2, 2)(fine)).tensors
    norm, inner, other = "blocks.0.norm.weight", "blocks.1.up.weight", "out.weight"
    near(
        made,
        {
            norm: smooth[norm] + (fine.tensors[norm] - smooth[norm]),
            inner: up[inner] + 0.5 * (fine.tensors[inner] - smooth[inner]),
            other: up[other] + (fine.tensors[other] - smooth[other]),
        },
    )
    with pytest.raises(MlgraphError, match="No tensor of .* is called nothing"):
        Interpolate({"nothing*": 1.0})(fine, coarse)


def test_detail_needs_the_coarse_program():
    fine = doubles()
    for second in (mlgraph.decoalesce(Coalesce(2)(fine)), mlgraph.decoalesce(fine, width=2)):
        with pytest.raises(MlgraphError, match="detail is what coarsening averaged away: give the coarse"):
            Interpolate(0.5, 1.0)(fine, second)


def test_a_coarse_program_that_was_saved_mixes_too(tmp_path):
    fine = doubles()
    coarse = trained(Coalesce(2, 2)(fine))
    mlgraph.save(coarse, tmp_path / "small.pt")
    made = Interpolate(1.0, 1.0)(fine, mlgraph.load(tmp_path / "small.pt"))
    near(made, dict(Interpolate(1.0, 1.0)(fine, coarse).tensors))


class Masked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.mask.softmax(-1)


def test_masks_are_not_mixed():
    made = mlgraph.capture(Masked(), (torch.randn(4, 4),))
    assert torch.equal(mlgraph.interpolate(made, made).tensors["mask"], made.tensors["mask"])
