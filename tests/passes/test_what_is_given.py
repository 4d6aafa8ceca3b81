"""Modules, numbers and names in the place of others: answered in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mlgraph

MODEL = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
X = torch.randn(2, 6)


@pytest.fixture(scope="module")
def program() -> mlgraph.Program:
    return mlgraph.capture(MODEL, (X,))


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "coalesce": lambda p, given: mlgraph.coalesce(given, width=2),
    "decoalesce": lambda p, given: mlgraph.decoalesce(given, width=2),
    "interpolate": lambda p, given: mlgraph.interpolate(p, given),
    "emit": lambda p, given: mlgraph.emit(given),
    "verify": lambda p, given: mlgraph.verify(given),
    "save": lambda p, given: mlgraph.save(given, "absent/model.pt"),
    "explain": lambda p, given: mlgraph.explain(given, "0.weight"),
    "diff": lambda p, given: mlgraph.diff(p, given),
    "modules": lambda p, given: mlgraph.modules(given),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_module_is_no_program(program: mlgraph.Program, name: str) -> None:
    with pytest.raises(mlgraph.MlgraphError, match=r"a Sequential and no program; capture it first"):
        CALLS[name](program, MODEL)
    with pytest.raises(mlgraph.MlgraphError, match=r"a EmittedModule and no program; take its \.program"):
        CALLS[name](program, mlgraph.emit(program))


@pytest.mark.parametrize("alpha", ["a", -1, 1.5, True, {"hidden": 2}])
def test_shares_are_numbers_between_0_and_1(program: mlgraph.Program, alpha: Any) -> None:
    with pytest.raises(mlgraph.MlgraphError, match="Option 'alpha' of pass 'interpolate' must be"):
        mlgraph.interpolate(program, program, alpha=alpha)


def test_a_share_may_be_a_tensor(program: mlgraph.Program) -> None:
    other = program.replace(tensors=program.tensors.replace({n: t + 1 for n, t in program.tensors.items()}))
    mixed = mlgraph.interpolate(program, other, alpha=torch.tensor(0.25))  # type: ignore[arg-type]
    torch.testing.assert_close(mixed.tensors["0.bias"], program.tensors["0.bias"] + 0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": torch.int8}, "dtype is torch.int8, and must be a floating-point one"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"device": "nope"}, "device 'nope' cannot be used"),
    ],
)
def test_modules_are_not_made_in_any_place(program: mlgraph.Program, options: Any, words: str) -> None:
    with pytest.raises(mlgraph.MlgraphError, match=words):
        mlgraph.emit(program, **options)


def test_arguments_of_emitted_modules_are_tensors(program: mlgraph.Program) -> None:
    module = mlgraph.emit(program)
    for given, words in ((X.numpy(), "must be a tensor, not a ndarray"), (None, "is missing")):
        with pytest.raises(mlgraph.MlgraphError, match=words):
            module(given)
