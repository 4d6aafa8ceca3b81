"""Two programs side by side, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.text import Text

from mlgraph.cli.differences import Differences, Sizes, TensorChange
from mlgraph.cli.render.comparison import chain_changes, comparison
from mlgraph.cli.render.console import heading, table
from mlgraph.cli.render.numbers import plural

_FEW = 12


def side_by_side(found: Differences, every: bool) -> list[Any]:
    """Lineage, figures, axes, tensors and ops; tensors alike in all blocks share a line unless ``every``."""
    lines: list[Any] = [
        *(_lineage(side, steps) for side, steps in zip("AB", found.lineage, strict=True)),
        Text(),
        *comparison(found.before, found.after, chain_changes(found.before, found.after)),
    ]
    if found.same:
        return [*lines, Text(), f"The graphs are the same, and so are all {plural(found.equal, 'tensor')}."]
    lines += _section("axes", ("axis", "A", "B"), [_sizes(axis) for axis in found.axes])
    rows: Sequence[tuple[str, ...]] = _folded(found.tensors)
    if every:
        rows = [_tensor(change) for change in found.tensors]
    shown = rows if every else rows[:_FEW]
    lines += _section("tensors", ("tensor", "A", "B", "change"), shown)
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} more; --all lists every tensor")
    lines.append(f"{plural(found.equal, 'tensor')} equal, {len(found.tensors)} not")
    operations = [(op, str(a), str(b)) for op, (a, b) in found.operations.items()]
    return lines + _section("graph: how often each op occurs", ("op", "A", "B"), operations)


def _lineage(side: str, steps: tuple[str, ...]) -> str:
    return f"{side}  " + " → ".join(["L1", *steps])


def _section(title: str, headers: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[Any]:
    return [Text(), heading(title), table(headers, rows)] if rows else []


def _sizes(axis: Sizes) -> tuple[str, str, str]:
    left, right = (", ".join(map(str, sizes)) or "-" for sizes in (axis.before, axis.after))
    return axis.name, left, right


def _tensor(change: TensorChange) -> tuple[str, str, str, str]:
    moved = "" if change.relative is None else f"{change.relative:.1e}"
    return change.name, _shape(change.before), _shape(change.after), moved


def _folded(changes: Iterable[TensorChange]) -> list[tuple[str, ...]]:
    """One line for the tensors whose names differ in numbers only and whose shapes are the same."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for change in changes:
        name = re.sub(r"(?<=\.)\d+(?=\.)", "*", change.name)
        key = (name, _shape(change.before), _shape(change.after))
        groups.setdefault(key, []).append(change.relative or 0.0)
    rows: list[tuple[str, ...]] = []
    for (name, left, right), moved in groups.items():
        times = f" ×{len(moved)}" if len(moved) > 1 else ""
        rows.append((name + times, left, right, f"{max(moved):.1e}" if max(moved) else ""))
    return rows


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else f"[{', '.join(map(str, shape))}]"
