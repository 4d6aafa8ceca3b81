"""Rows of a label, dims and figures, fitted to the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

_LEAST_DETAIL = 24
_GAP = 2
_LINE = 4


@dataclass(frozen=True)
class Row:
    """A line of a tree: ``marks`` lead in, ``detail`` is what wraps, ``figures`` stand in columns."""

    marks: str
    label: str
    detail: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    style: str = ""
    detail_style: str = ""


def lay_out(headers: Row, rows: Sequence[Row], width: int) -> list[Text]:
    """The rows as lines of at most ``width`` columns, figures to the right.

    Details start in one column; a label that is longer pushes its own to the right. That column is where few
    lines are needed and few labels are longer. A label too long for any detail beside it loses first names.
    """
    columns = range(len(headers.figures))
    sizes = [max(len(row.figures[c]) for row in (headers, *rows) if row.figures) for c in columns]
    room = max(width - sum(size + _GAP for size in sizes), _LEAST_DETAIL)
    labels = [_fitted(row, room) for row in (headers, *rows)]
    start = _best_start(labels, [headers, *rows], room)
    lines: list[Text] = []
    for place, (row, label) in enumerate(zip((headers, *rows), labels, strict=True)):
        lines += _lines(row, label, start, room, sizes, heading=place == 0)
    return lines


def _fitted(row: Row, room: int) -> str:
    """The label; all but its last two names give way to the detail, then its middle to the detail's parts."""
    whole = min(len(" ".join(row.detail)) + 1, _LEAST_DETAIL)
    longest = min(max((len(part) for part in row.detail), default=0) + 1, _LEAST_DETAIL)
    label, limit = row.label, room - len(row.marks)
    while len(label) > limit - whole and label.partition(" ")[0].count(".") > 1:
        label = "…" + label.removeprefix("…").partition(".")[2]
    if len(label) > limit - longest:
        half = max((limit - longest) // 2 - 1, 4)
        label = f"{label[:half]}…{label[-half:]}"
    return label


def _best_start(labels: Sequence[str], rows: Sequence[Row], room: int) -> int:
    widths = [len(row.marks) + len(label) for row, label in zip(rows, labels, strict=True)]

    def cost(start: int) -> int:
        lines = sum(
            len(wrapped(row.detail, room - max(start, size + 1)))
            for row, size in zip(rows, widths, strict=True)
        )
        return _LINE * lines + sum(size + 1 > start for size in widths)

    return min(range(min(16, room - 1), max(max(widths) + _GAP, 17)), key=cost)


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts joined by spaces in lines of at most ``width``; a part that is longer is broken at its spaces."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        elif len(part) <= width or " " not in part:
            lines += [part[at : at + max(width, 1)] for at in range(0, len(part), max(width, 1))]
        else:
            lines += wrapped(part.split(" "), width)
    return lines


def _lines(
    row: Row, label: str, start: int, room: int, sizes: Sequence[int], heading: bool = False
) -> list[Text]:
    used = len(row.marks) + len(label)
    at = max(start, used + 1) if row.detail else start
    details = wrapped(row.detail, room - at) or [""]
    lines = []
    for number, detail in enumerate(details):
        line = Text(no_wrap=True, overflow="ignore", style="bold" if heading else "")
        first = number == 0
        left = row.marks + (label if first else "")
        line.append(row.marks, "dim").append(label if first else "", row.style)
        line.append(" " * max(at - len(left), 0)).append(detail, row.detail_style)
        if first and row.figures:
            line.append(" " * (room - max(at, len(left)) - len(detail)))
            for figure, size in zip(row.figures, sizes, strict=True):
                line.append(" " * _GAP + figure.rjust(size))
        line.rstrip()
        lines.append(line)
    return lines
