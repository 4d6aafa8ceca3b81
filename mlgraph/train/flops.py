"""Floating-point operations of a program on a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from mlgraph.graph.flops import Flops, flops_at
from mlgraph.program import Program
from mlgraph.train.data.batches import Binder


def step_flops(program: Program, inputs: Any, teacher: Program | None = None) -> int:
    """Operations of a training step of ``program``, with the forward pass of a teacher where it has one."""
    own = count_flops(program, inputs).training
    return own if teacher is None else own + count_flops(teacher, inputs).forward


def count_flops(program: Program, inputs: Any = None) -> Flops:
    """Operations of ``program`` on a batch of ``inputs``, by default of the sizes it was captured with.

    ``inputs`` is a batch as ``run`` takes it (mapping, tuple or tensor); only shapes are read.
    """
    if inputs is None:
        return flops_at(program)
    given = pytree.tree_leaves(Binder(program, spare=True).call(inputs))
    return flops_at(
        program, [(tuple(x.shape), x.dtype) if isinstance(x, torch.Tensor) else ((), None) for x in given]
    )
