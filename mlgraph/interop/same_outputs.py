"""A plain model's outputs against those of the module emitted from a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph.graph.compare import relative_error
from mlgraph.graph.example_call import example_call
from mlgraph.interop.fitting.advice import INSTEAD
from mlgraph.interop.fitting.fit import NotExpressible

if TYPE_CHECKING:
    from mlgraph.program import Program


def check_outputs(program: Program, model: nn.Module, bound: float | None = None) -> float:
    """The largest difference of outputs on random inputs, relative to the largest value of each output.

    ``bound`` is 1e-5 for programs in fp32 and fp64 and 5e-2 below by default.

    Raises:
        NotExpressible: it is above ``bound``.
    """
    from mlgraph.emit.module import emit

    args, kwargs = example_call(program)
    module = emit(program).eval()
    with torch.no_grad():
        ours = pytree.tree_leaves(module(*args, **kwargs))
        theirs = pytree.tree_leaves(model(*args, **kwargs))
    if bound is None:
        bound = 1e-5 if main_dtype(program) in (torch.float32, torch.float64) else 5e-2
    if len(ours) != len(theirs):
        raise NotExpressible(f"{type(model).__name__} returns other outputs; {INSTEAD}.")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            worst = max(worst, relative_error(b, a))
    if not worst <= bound:
        raise NotExpressible(
            f"{type(model).__name__} loaded from what was written gives outputs that differ by {worst:.1e} "
            f"from the program's; {INSTEAD}."
        )
    return worst


def main_dtype(program: Program) -> torch.dtype:
    """The floating dtype in which most parameters are."""
    sizes: dict[torch.dtype, int] = {}
    for name, tensor in program.tensors.meta().items():
        if name in program.tensors.parameters and tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
