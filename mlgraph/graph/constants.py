"""Which tensors of a program are constants: values that tell blocks apart and of which no mean is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlgraph.graph.effects import written
from mlgraph.graph.ops import op_name

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program

_COUNTING = ("batch_norm", "instance_norm")


def constants(program: Program) -> frozenset[str]:
    """Masks, tables and numbers that neither training nor the model itself changes.

    All buffers but those that the graph writes or that a batch norm reads as its statistics; of parameters
    those of no floating-point dtype, and frozen masks (see :meth:`mlgraph.program.Tensors.is_mask`).
    """
    tensors = program.tensors
    state = set(tensors.stateful)
    state.update(str(node.target) for node in written(program.graph) if node.op == "get_attr")
    for node in program.graph.nodes:
        if node.op == "call_function" and op_name(node).removeprefix("native_") in _COUNTING:
            state.update(str(arg.target) for arg in node.all_input_nodes if arg.op == "get_attr")
    like = tensors.meta()
    return frozenset(
        name for name in tensors if name not in state and not _is_trained(program, name, like[name])
    )


def loose_constants(program: Program) -> frozenset[str]:
    """Those of :func:`constants` that may differ in every block of a chain: floats that a state dict holds.

    Statistics that a frozen norm keeps as buffers are of this kind.
    """
    like = program.tensors.meta()
    held = constants(program).intersection(program.tensors.persistent)
    return frozenset(name for name in held if like[name].is_floating_point() or like[name].is_complex())


def _is_trained(program: Program, name: str, like: torch.Tensor) -> bool:
    tensors = program.tensors
    if name not in tensors.parameters:
        return False
    return (like.is_floating_point() or like.is_complex()) and not tensors.is_mask(name)
