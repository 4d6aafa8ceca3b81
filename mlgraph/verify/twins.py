"""Twin neurons: indices of an axis that are copies of one another.

De-coalescing makes them, and twins get equal gradients for ever; interpolation tells them apart (arXiv
2404.07999, the interpolation operator).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.program.dims import Leaf

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis, Slot
    from mlgraph.program.dims import Dim


@dataclass(frozen=True)
class Twins:
    """Copies along the axes of one name.

    ``slots`` counts the slots looked at, ``identical`` and ``near`` those of them in which most indices
    have an exact twin, or one within the tolerance. ``share`` and ``near_share`` are the mean fractions of
    indices that have one, over all slots.
    """

    axis: str
    size: int
    slots: int
    identical: int
    near: int
    share: float
    near_share: float


@dataclass(frozen=True)
class SymmetryReport:
    """Twins per family of axes."""

    rows: tuple[Twins, ...]
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        return {"tolerance": self.tolerance, "axes": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = [
            f"{'axis':<14}{'size':>7}{'slots':>7}{'identical':>11}{'near':>7}{'share':>8}{'near share':>12}"
        ]
        for r in self.rows:
            lines.append(
                f"{r.axis:<14}{r.size:>7}{r.slots:>7}{r.identical:>11}{r.near:>7}{r.share:>8.1%}{r.near_share:>12.1%}"
            )
        return "\n".join(lines)


def symmetry(program: Program, tolerance: float = 1e-3) -> SymmetryReport:
    """Count twin neurons along every axis that may be coarsened.

    Two indices of a slot are identical when all their weights are equal, near when their rows differ by
    less than ``tolerance`` of their length. Slots in which the axis is a factor inside a concatenation are
    looked at part by part.
    """
    families: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for axis in program.axes:
        if axis.frozen is not None or axis.size < 2:
            continue
        found = families.setdefault((axis.name, axis.size), [])
        for slot in axis.slots:
            rows = _rows(program, axis, slot)
            if rows is not None:
                found.append((_identical(rows), _near(rows, tolerance)))
    rows_out = []
    for (name, size), found in families.items():
        if found:
            exact = [e for e, _ in found]
            near = [n for _, n in found]
            rows_out.append(
                Twins(
                    name,
                    size,
                    len(found),
                    sum(e > 0.5 for e in exact),
                    sum(n > 0.5 for n in near),
                    sum(exact) / len(exact),
                    sum(near) / len(near),
                )
            )
    return SymmetryReport(tuple(rows_out), tolerance)


def _rows(program: Program, axis: Axis, slot: Slot) -> torch.Tensor | None:
    """The slot as ``[axis size, everything else]``; None where nothing else varies (a vector tells
    nothing)."""
    value = program.tensors[slot.tensor].detach()
    piece, position = _locate(
        value, program.axes.tensor_dims[slot.tensor][slot.dim], slot.dim, axis.id, slot.occurrence
    )
    rows = piece.movedim(position, 0).reshape(axis.size, -1).to(torch.float64)
    return rows if rows.shape[1] > 1 else None


def _locate(value: torch.Tensor, dim: Dim, at: int, axis: str, occurrence: int) -> tuple[torch.Tensor, int]:
    """The part of a tensor, and the dim of it, at which a leaf of one of its dims lies."""
    sizes = [term.size for term in dim]
    value = value.unflatten(at, sizes) if len(sizes) > 1 else value
    for index, term in enumerate(dim):
        start = 0
        for part in (term,) if isinstance(term, Leaf) else term.parts:
            held = len(list(part.leaves()))
            if occurrence >= held:
                occurrence -= held
                start += part.size
                continue
            if isinstance(part, Leaf):
                return value, at + index
            return _locate(value.narrow(at + index, start, part.size), part, at + index, axis, occurrence)
    raise LookupError(axis)


def _identical(rows: torch.Tensor) -> float:
    _, inverse, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).double().mean())


def _near(rows: torch.Tensor, tolerance: float) -> float:
    distance = torch.cdist(rows, rows)
    distance.fill_diagonal_(torch.inf)
    length = rows.norm(dim=1).clamp_min(1e-12)
    return float((distance.min(1).values <= tolerance * length).double().mean())
