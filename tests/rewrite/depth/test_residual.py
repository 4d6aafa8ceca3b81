"""Copies of blocks that change nothing: identities where there are any, refusals by name where not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mlgraph
from tests.rewrite.depth.stacks import Layer, difference, stacked

Function = Callable[[Layer, torch.Tensor], torch.Tensor]

KEPT: dict[str, Function] = {
    "sum": lambda s, h: h + s.branch(h),
    "alpha on the branch": lambda s, h: torch.add(h, s.branch(h), alpha=2.0),
    "difference": lambda s, h: h - s.branch(h),
    "scaled there and back": lambda s, h: (h / 3 + s.branch(h)) * 3,
    "transposed there and back": lambda s, h: (h.transpose(1, 2) + s.branch(h).transpose(1, 2)).transpose(
        1, 2
    ),
    "rolled there and back": lambda s, h: (h.roll(1, 1) + s.branch(h)).roll(-1, 1),
    "gain on the stream": lambda s, h: s.gain * h + s.branch(h),
    "rectified": lambda s, h: F.relu(h + s.branch(h)),
    "masked": lambda s, h: (h + s.branch(h)).masked_fill(torch.arange(h.shape[-1]) > 3, 1.0),
    "normalised after": lambda s, h: s.fine(h + s.branch(h)),
}

REFUSED: dict[str, tuple[Function, str]] = {
    "alpha on the stream": (lambda s, h: torch.add(s.branch(h), h, alpha=2.0), "add with alpha=2.0"),
    "half the stream": (lambda s, h: 0.5 * h + s.branch(h), r"stream \(mul\)"),
    "transposed": (lambda s, h: (h + s.branch(h)).flip(1), r"stream \(flip\)"),
    "rolled": (lambda s, h: h.roll(1, 1) + s.branch(h), r"stream \(roll\)"),
    "negated": (lambda s, h: -(h + s.branch(h)), r"stream \(neg\)"),
    "constant added": (lambda s, h: h + 0.1 + s.branch(h), r"stream \(add\)"),
    "squashed": (lambda s, h: torch.tanh(h + s.branch(h)), r"stream \(tanh\)"),
    "gated": (lambda s, h: (lambda t: t * s.branch(h) + (1 - t) * h)(s.gate(h).sigmoid()), "residual stream"),
    "epsilon": (lambda s, h: s.after(h + s.branch(h)), "layer_norm with eps=1e-05"),
    "normalised before the sum": (lambda s, h: s.fine(h) + s.branch(h), "layer_norm with eps=1e-12"),
    "one norm twice": (lambda s, h: s.fine(s.fine(h + s.gate(h)) + s.branch(h)), "layer_norm"),
    "padded with ones": (
        lambda s, h: h + F.pad(s.branch(h)[..., :-1], (0, 1), value=1.0),
        "ends at aten.pad",
    ),
    "squashed branch": (lambda s, h: h + torch.tanh(s.branch(h)), "ends at aten.tanh"),
    "one gain for both": (lambda s, h: h * s.gain + s.branch(h) * s.gain, "mul by layers.0.gain"),
}


@pytest.mark.parametrize("name", KEPT)
def test_identity_copies_keep_the_function(name: str) -> None:
    program = stacked(KEPT[name])
    assert [len(chain) for chain in program.blocks] == [2]
    for factor in (2, 3):
        grown = mlgraph.decoalesce(program, depth=factor, depth_mode="identity")
        assert difference(grown, program) <= 1e-10
        assert not [note for note in grown.notes if "approximate" in str(note)]


@pytest.mark.parametrize("name", REFUSED)
def test_blocks_of_which_no_copy_is_an_identity_are_refused_by_name(name: str) -> None:
    function, why = REFUSED[name]
    with pytest.raises(mlgraph.MlgraphError, match=why):
        mlgraph.decoalesce(stacked(function), depth=2, depth_mode="identity")


@pytest.mark.parametrize(
    "name", ["alpha on the stream", "half the stream", "transposed", "rolled", "negated"]
)
def test_steps_are_not_scaled_where_the_stream_itself_changes(name: str) -> None:
    with pytest.raises(mlgraph.MlgraphError, match="change their residual stream themselves"):
        mlgraph.decoalesce(stacked(REFUSED[name][0]), depth=2, depth_mode="scaled")


def test_copies_under_a_norm_must_be_neighbours() -> None:
    with pytest.raises(mlgraph.MlgraphError, match="follow one another"):
        mlgraph.decoalesce(
            stacked(KEPT["normalised after"]), depth=2, depth_mode="identity", pairing="halves"
        )


def test_epsilon_of_a_norm_in_single_precision_is_noted() -> None:
    program = stacked(REFUSED["epsilon"][0])
    single = mlgraph.capture(mlgraph.emit(program, dtype=torch.float32).eval(), (torch.randn(2, 7, 5),))
    grown = mlgraph.decoalesce(single, depth=2, depth_mode="identity")
    assert any("approximate" in str(note) and "epsilon" in str(note) for note in grown.notes)


def test_scaled_copies_are_one_step_in_parts() -> None:
    """With a branch that ignores its input, m scaled copies are one block exactly."""
    program = stacked(lambda s, h: h + s.down(torch.ones(8, dtype=h.dtype)))
    grown = mlgraph.decoalesce(program, depth=3, depth_mode="scaled")
    assert difference(grown, program) <= 1e-10


def test_what_computes_with_the_results_of_all_blocks_counts_copies_too() -> None:
    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, found = self.into(x), []
            for layer in self.layers:
                h = h + layer(F.gelu(h))
                found.append(h)
            result: torch.Tensor = self.out(torch.stack(found).mean(0))
            return result

    program = mlgraph.capture(Averaged().double(), (torch.randn(2, 6, dtype=torch.float64),))
    grown = mlgraph.decoalesce(program, depth=2, depth_mode="identity")
    (told,) = [str(note) for note in grown.notes if note.kind == "approximate"]
    assert "aten.stack.default reads the results of all of them" in told
