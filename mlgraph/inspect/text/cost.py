"""The cost of a batch as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlgraph.inspect.text.console import shortened, table
from mlgraph.inspect.text.numbers import count, size

if TYPE_CHECKING:
    from mlgraph.inspect.cost import Cost

_LONGEST_NAME = 32


def cost_view(found: Cost) -> list[Any]:
    """One line for each chain, of one of its blocks, then the whole batch and what it was given."""
    rows = []
    for part in found.parts:
        name = shortened(part.name, _LONGEST_NAME)
        called = f"{name} ×{part.number}, each" if part.number > 1 else name
        rows.append((called, count(part.forward), size(part.activations)))
    rows.append(("the whole batch", count(found.forward), size(found.activations)))
    given = ", ".join(f"{name} {list(shape)}" for name, shape in found.inputs)
    return [
        table(("", "forward FLOPs", "activations"), rows, right=(1, 2)),
        "",
        f"{count(found.training)} FLOPs in training, forward and backward; weights {size(found.weights)}",
        f"batch: {given}",
        "Activations are what training holds for its backward pass, at most.",
    ]
