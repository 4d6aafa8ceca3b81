"""Zoo models captured once per test process, and comparisons of two modules on one call."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph import capture
from mlgraph.program import Program
from tests.zoo import get


@dataclass(frozen=True)
class Captured:
    """A zoo model, its example call and its program; :meth:`fresh` gives a model of one's own."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    program: Program

    def fresh(self) -> nn.Module:
        return copy.deepcopy(self.model)


@cache
def captured(name: str) -> Captured:
    built = get(name).build()
    # the program gets tensors of its own, so that a test that trains it changes nothing here
    program = capture(copy.deepcopy(built.model), built.args, built.kwargs)
    return Captured(built.model, built.args, built.kwargs, program)


def tensors_of(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def scalar(result: Any) -> torch.Tensor:
    """A loss in which every element of a result has its own fixed weight."""
    generator = torch.Generator().manual_seed(0)
    floats = [tensor for tensor in tensors_of(result) if tensor.is_floating_point()]
    weighted = [(t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).mean() for t in floats]
    return torch.stack(weighted).sum()


def worst(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().clamp(min=1e-3)
    return float(((found - expected).abs().max() / scale).detach())


def same_function(
    found: nn.Module, expected: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int = 1
) -> tuple[float, float]:
    """The worst relative differences of results and of gradients, with equal random draws."""
    results = []
    for module in (expected, found):
        module.zero_grad()
        torch.manual_seed(seed)
        result = module(*args, **kwargs)
        scalar(result).backward()
        results.append(result)
    wanted, got = (pytree.tree_flatten(result) for result in results)
    assert got[1] == wanted[1]
    pairs = zip(tensors_of(results[1]), tensors_of(results[0]), strict=True)
    outputs = max(worst(have.float(), want.float()) for have, want in pairs)
    gradients = 0.0
    reference = dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        want = reference[name].grad
        if parameter.grad is None or want is None:
            assert parameter.grad is None or not parameter.grad.any(), name
            assert want is None or not want.any(), name
        else:
            gradients = max(gradients, worst(parameter.grad, want))
    return outputs, gradients
