"""The console that all verbs print to, and the plain tables that they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output; 80 columns wide where it is no terminal and COLUMNS says nothing."""
    return Console(highlight=False, emoji=False, markup=False)


def show(*renderables: Any) -> None:
    """Print renderables one below the other, without trailing spaces where output is no terminal."""
    target = console()
    if target.is_terminal:
        _print(target, renderables)
        return
    with target.capture() as captured:
        _print(target, renderables)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def _print(target: Console, renderables: Iterable[Any]) -> None:
    for renderable in renderables:
        # print() makes a new text of a text and forgets how it is to be wrapped.
        no_wrap, overflow = (getattr(renderable, name, None) for name in ("no_wrap", "overflow"))
        target.print(renderable, crop=False, no_wrap=no_wrap, overflow=overflow)


def show_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> Table:
    """A table without lines; the columns in ``right`` hold numbers, the last one wraps."""
    numeric = set(right)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        last = index == len(headers) - 1
        grid.add_column(
            header,
            justify="right" if index in numeric else "left",
            no_wrap=not last and index != 0,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return grid


def shortened(name: str, longest: int) -> str:
    """A dotted name in at most ``longest`` characters: its first parts give way, then its beginning."""
    while len(name) > longest and "." in name.removeprefix("…"):
        name = "…" + name.removeprefix("…").partition(".")[2]
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def heading(text: str) -> Text:
    """A title above a table."""
    return Text(text, style="bold")


def bullets(title: str, lines: Iterable[str]) -> list[Any]:
    """A title with a list below it, or nothing where the list is empty."""
    listed = list(lines)
    if not listed:
        return []
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in listed:
        grid.add_row(Text("-"), Text(line))
    return [Text(), heading(title), grid]
