"""The figures of a program that verbs compare, as plain data."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgraph.program import Program


@dataclass(frozen=True)
class Family:
    """Axes of one name and size that share a fate: ``"coarsenable"``, ``"kept"`` or ``"frozen"``, and why."""

    name: str
    size: int
    ids: tuple[str, ...]
    slots: int
    fate: str
    reason: str = ""
    where: str = ""


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


def families(program: Program) -> list[Family]:
    """The axes of a program, those alike put together, in the order of the table."""
    grouped: dict[tuple[str, int, str, str], list[Any]] = defaultdict(list)
    for axis in program.axes:
        fate = "frozen" if axis.frozen else "coarsenable" if axis.coarsenable_by_default else "kept"
        grouped[axis.name, axis.size, fate, axis.frozen or axis.kept or ""].append(axis)
    return [
        Family(
            name,
            size,
            tuple(axis.id for axis in axes),
            sum(len(axis.slots) for axis in axes),
            fate,
            reason,
            axes[0].where,
        )
        for (name, size, fate, reason), axes in grouped.items()
    ]


def summarize(program: Program) -> Summary:
    """The figures of a program; reads no tensor."""
    flops, unit = _flops(program)
    return Summary(
        program.name,
        program.num_parameters(),
        sum(tensor.numel() * tensor.element_size() for tensor in _shapes(program)),
        tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in _shapes(program, True)})),
        flops,
        unit,
        {chain.name: len(chain) for chain in program.blocks},
    )


def _shapes(program: Program, parameters_only: bool = False) -> list[Any]:
    skeleton = program.skeleton().tensors
    return [skeleton[name] for name in skeleton if not parameters_only or name in skeleton.parameters]


def _flops(program: Program) -> tuple[float, str]:
    from mlgraph.train.flops import count_flops

    counted = count_flops(program)
    unit = "token" if counted.tokens != counted.samples else "example"
    return counted.per_token, unit
