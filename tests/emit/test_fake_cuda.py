"""Emitted modules on CUDA tensors that have shapes only, and compiled without a break: no GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import mlgraph
from tests.captured import captured, tensors_of
from tests.selection import CORE
from tests.train.models import points, program
from tests.zoo import entries

NAMES = [entry.name for entry in entries()]


def _on_cuda(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, device="cuda")


@pytest.mark.parametrize(
    "name", [n if n in CORE else pytest.param(n, marks=pytest.mark.thorough) for n in NAMES]
)
def test_a_forward_pass_stays_on_the_device_of_its_inputs(name: str) -> None:
    """What is made on the host inside the step would meet a CUDA tensor, and fake tensors refuse that."""
    found = captured(name)
    with FakeTensorMode(), torch.no_grad():
        values = {key: _on_cuda(tensor) for key, tensor in found.program.tensors.items()}
        tensors = found.program.tensors.replace(values)
        module = mlgraph.emit(found.program.with_values(tensors)).eval()
        args, kwargs = pytree.tree_map(_on_cuda, (found.args, found.kwargs))
        results = tensors_of(module(*args, **kwargs))
    assert results
    assert {result.device.type for result in results} == {"cuda"}


def test_a_compiled_step_is_one_graph() -> None:
    counter = CompileCounter()
    compiled = torch.compile(mlgraph.emit(program()), backend=counter, fullgraph=True)
    compiled(points(1)[0][0]).sum().backward()
    assert counter.frame_count == 1
