"""Growth and permutation as oracles of rules: what axes claim, against the ops themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mlgraph.program import Program
from mlgraph.program.axis_table import Axis
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.refine import apply_up
from mlgraph.verify.soundness import evaluate, permutation_error, relative_error

TOLERANCE = 1e-7


def claimed(program: Program) -> list[Axis]:
    """The axes of which the program says that they change exactly."""
    return [axis for axis in program.axes if axis.frozen is None and axis.size > 1 and axis.exact]


def fault(program: Program, seed: int = 0, thorough: bool = True) -> str | None:
    """What is wrong with an axis that the program says to change exactly; ``None`` where nothing is.

    All axes are grown at once, by one factor and by several, and permuted; if ``thorough``, each alone too.
    """
    axes = claimed(program)
    if not axes:
        return None
    zero = [torch.zeros((), dtype=torch.float64)]
    try:
        before = evaluate(program, program.tensors, zero)
    except RuntimeError:  # outside of training the op gives other shapes than those it was traced with
        return None
    requests = [{axis.id: 2 + index % 2 for index, axis in enumerate(axes)}]
    requests.append({axis.id: 2 for axis in axes if axis.coarsenable_by_default})
    if thorough:
        requests += [{axis.id: 2 for axis in axes}, *({axis.id: 3} for axis in axes)]
    tried: list[Mapping[str, int]] = []
    for request in requests:
        if not request or request in tried:
            continue
        tried.append(request)
        found = _growth_fault(program, request, before, zero)
        if found:
            return f"grown by {request}: {found}"
    moved = permutation_error(program, [axis.id for axis in axes], zero, seed, TOLERANCE)
    if moved.error > TOLERANCE:
        return f"permuted: off by {moved.error:.1e} at {moved.where}"
    return None


def _growth_fault(
    program: Program, request: Mapping[str, int], before: list[Any], inputs: list[Any]
) -> str | None:
    sizes = {axis.id: axis.size for axis in program.axes}
    groupings = {axis: Grouping.adjacent(sizes[axis] * factor, factor) for axis, factor in request.items()}
    try:
        grown = apply_up(program, groupings, {}, "exact", "copy", "growth")
        after = evaluate(grown, grown.tensors, inputs)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    if any(note.kind == "approximate" for note in grown.notes):
        return None
    off = max(relative_error(y, x) for x, y in zip(before, after, strict=True))
    return f"off by {off:.1e}" if off > TOLERANCE else None
