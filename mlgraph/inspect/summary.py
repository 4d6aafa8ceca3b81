"""The figures of a program that verbs compare, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlgraph.program.families import Family, families

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program

__all__ = ["Family", "Summary", "families", "summarize"]


@dataclass(frozen=True)
class Summary:
    """The figures of one program; ``flops`` are those of training per ``unit``, a token or an example."""

    name: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]
    flops: float
    unit: str
    blocks: dict[str, int]


def summarize(program: Program, dtype: torch.dtype | None = None) -> Summary:
    """The figures of a program, its floating-point tensors in ``dtype`` if one is given; reads no tensor."""
    flops, unit = _flops(program)
    return Summary(
        program.name,
        program.num_parameters(),
        sum(tensor.numel() * _kind(tensor, dtype).itemsize for tensor in _shapes(program)),
        tuple(sorted({str(_kind(t, dtype)).removeprefix("torch.") for t in _shapes(program, True)})),
        flops,
        unit,
        {chain.name: len(chain) for chain in program.blocks},
    )


def _kind(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _shapes(program: Program, parameters_only: bool = False) -> list[Any]:
    skeleton = program.skeleton().tensors
    return [skeleton[name] for name in skeleton if not parameters_only or name in skeleton.parameters]


def _flops(program: Program) -> tuple[float, str]:
    from mlgraph.graph.flops import flops_at

    counted = flops_at(program)
    unit = "token" if counted.tokens != counted.samples else "example"
    return counted.per_token, unit
