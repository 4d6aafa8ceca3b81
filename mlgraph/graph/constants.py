"""Which tensors of a program are constants: values that tell blocks apart and of which no mean is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlgraph.graph.effects import written
from mlgraph.graph.ops import op_name

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program, Tensors

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
    return frozenset(
        name
        for name, (_, dtype) in tensors.source.shapes.items()
        if name not in state and not _is_trained(tensors, name, dtype)
    )


def loose_constants(program: Program) -> frozenset[str]:
    """Those of :func:`constants` that may differ in every block of a chain: floats that a state dict holds.

    Statistics that a frozen norm keeps as buffers are of this kind.
    """
    shapes = program.tensors.source.shapes
    held = constants(program).intersection(program.tensors.persistent)
    return frozenset(name for name in held if _is_numeric(shapes[name][1]))


def _is_trained(tensors: Tensors, name: str, dtype: torch.dtype) -> bool:
    return name in tensors.parameters and _is_numeric(dtype) and not tensors.is_mask(name)


def _is_numeric(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex
