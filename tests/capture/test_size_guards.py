"""Sizes of inputs: those that an emitted module takes give the model's results, all others are refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph import MlgraphError, capture, emit

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SIZES = list(itertools.product((1, 2, 3, 9), (1, 2, 3, 4, 5, 7, 8, 12)))


class Changed(nn.Module):
    """A linear map whose result is changed in a way that depends on the input's size."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, 8), nn.Linear(8, 5)
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.change(self.inp(x), x))


def _window(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    size = min(4, x.shape[1])
    return h[:, :size].mean(1) * size


def _checked(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if x.shape[1] > 8:
        raise ValueError("too long")
    return h


def _halves(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if x.shape[1] % 2 == 0:
        return h.unflatten(1, (x.shape[1] // 2, 2)).sum(2)
    return h


def _first_two(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    first = h[:, :2]
    return first.sum(1) / first.shape[1]


def _of_half(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    half = h[:, : x.shape[1] // 2]
    return half + 1 if half.shape[1] == 1 else half * 2


def _root(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    side = int(math.sqrt(x.shape[1]))
    return h[:, : side * side]


CHANGES: dict[str, tuple[Change, list[tuple[int, int]]]] = {
    "longer": (lambda h, x: h * 2 if x.shape[1] > 4 else h, [(1, 5), (9, 12)]),
    "shorter": (lambda h, x: h * 2 if x.shape[1] <= 7 else h, [(1, 1), (9, 5)]),
    "odd": (lambda h, x: h + 1 if x.shape[1] % 2 else h, [(1, 5), (9, 1)]),
    "compared": (lambda h, x: h + 1 if x.shape[1] > x.shape[0] else h, [(1, 2), (9, 12)]),
    "numel": (lambda h, x: h + 1 if x.numel() > 60 else h, [(9, 2)]),
    "half": (lambda h, x: h[:, : int(x.shape[1] * 0.5)], [(1, 7)]),
    "one": (lambda h, x: h * 2 if x.shape[0] == 1 else h, [(2, 1), (9, 7)]),
    "several": (lambda h, x: h * 2 if x.shape[1] > 1 else h, [(1, 2), (9, 7)]),
    "either": (lambda h, x: h * 2 if x.shape[1] in (3, 7) or x.shape[0] > 8 else h, [(3, 7)]),
    "window": (_window, [(1, 5), (9, 12)]),
    "checked": (_checked, [(1, 1), (9, 7)]),
    "halves": (_halves, [(3, 7)]),
    "first two": (_first_two, [(1, 2), (9, 12)]),
    "of half": (_of_half, [(1, 4), (9, 12)]),
    "rounded": (lambda h, x: h[:, : round(x.shape[1] / 3)], [(9, 7)]),
    "root": (_root, [(9, 7)]),
    "squeezed": (lambda h, x: h[:, :1].squeeze(1), [(1, 1), (9, 7)]),
    # told apart, to no effect
    "no matter": (lambda h, x: h if x.shape[0] == 1 else h * 1.0, [(1, 1), (1, 7), (2, 3)]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_size_is_right_or_refused(name: str) -> None:
    change, taken = CHANGES[name]
    torch.manual_seed(0)
    model = Changed(change).double().eval()
    module = emit(capture(model, (torch.randn(3, 7, 6, dtype=torch.float64),))).eval()
    right = set()
    for batch, length in SIZES:
        x = torch.randn(batch, length, 6, dtype=torch.float64)
        try:
            result = module(x)
        except MlgraphError:
            continue
        torch.testing.assert_close(result, model(x), rtol=1e-10, atol=1e-10)
        right.add((batch, length))
    assert right >= {*taken, (3, 7)}


def test_the_sentence_names_the_dim_and_the_condition() -> None:
    model = Changed(CHANGES["longer"][0])
    module = emit(capture(model, (torch.randn(3, 7, 6),)))
    with pytest.raises(MlgraphError) as error:
        module(torch.randn(3, 4, 6))
    assert str(error.value) == (
        "argument x has sequence (dim 1) 4, and the model was captured for sequence > 4; "
        "capture it at such a size"
    )
    module = emit(capture(Changed(CHANGES["compared"][0]), (torch.randn(3, 7, 6),)))
    with pytest.raises(
        MlgraphError, match=r"has sequence \(dim 1\) 3, batch \(dim 0\) 3, .* sequence > batch;"
    ):
        module(torch.randn(3, 3, 6))
    with pytest.raises(
        MlgraphError, match=r"argument x must have shape \[batch, sequence, 6\], not \[3, 7, 5\]"
    ):
        module(torch.randn(3, 7, 5))


def test_an_example_of_one_sample_keeps_its_own_branch() -> None:
    model = Changed(CHANGES["one"][0]).eval()
    x = torch.randn(1, 7, 6)
    module = emit(capture(model, (x,))).eval()
    torch.testing.assert_close(module(x), model(x))
    with pytest.raises(MlgraphError, match="must have shape"):
        module(torch.randn(2, 7, 6))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * x.shape[0] + y


def test_sizes_taken_to_be_equal_are_equal() -> None:
    module = emit(capture(Pair(), (torch.randn(3, 7), torch.randn(3, 7))))
    assert module(torch.randn(4, 5), torch.randn(4, 5)).shape == (4, 5)
    with pytest.raises(MlgraphError) as error:
        module(torch.randn(4, 5), torch.randn(1, 5))
    assert str(error.value) == (
        "argument y must have shape [batch, sequence] with batch 4, sequence 5, not [1, 5]"
    )


class Following(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x[:, :-1] + y if x.shape[1] == y.shape[1] + 1 else x.sum() + y


def test_sizes_that_follow_from_others_do() -> None:
    module = emit(capture(Following(), (torch.randn(3, 7), torch.randn(3, 6))))
    assert module(torch.randn(4, 9), torch.randn(4, 8)).shape == (4, 8)
    with pytest.raises(MlgraphError, match=r"y_sequence \(dim 1 of y\) 9, .* sequence == y_sequence \+ 1"):
        module(torch.randn(4, 9), torch.randn(4, 9))


def test_bounds_that_the_user_gave_hold() -> None:
    sequence = torch.export.Dim("sequence", min=2, max=16)
    program = capture(Changed(lambda h, x: h), (torch.randn(3, 7, 6),), dynamic_shapes={"x": {1: sequence}})
    module = emit(program)
    assert module(torch.randn(3, 16, 6)).shape == (3, 16, 5)
    with pytest.raises(MlgraphError, match="sequence <= 16"):
        module(torch.randn(3, 17, 6))


def test_guards_survive_files_and_passes(tmp_path: Path) -> None:
    program = capture(Changed(CHANGES["half"][0]), (torch.randn(3, 7, 6),))
    assert program.signature.guards
    mlgraph.save(program, tmp_path / "model.pt")
    loaded = mlgraph.load(tmp_path / "model.pt")
    assert loaded.signature.guards == program.signature.guards
    small = mlgraph.coalesce(loaded, width=2)
    assert small.signature.guards == program.signature.guards
    with pytest.raises(MlgraphError, match=r"int\(0.5 \* sequence\) == 3"):
        emit(small)(torch.randn(3, 9, 6))
