"""``mlgraph cache``: what is remembered of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from mlgraph.cli.options import Json


def command(
    action: Annotated[
        Literal["show", "clear"],
        typer.Argument(metavar="show|clear", help="List what is kept, or delete it."),
    ] = "show",
    json: Json = False,
) -> None:
    """List or delete what is remembered of models: captured graphs, and what verbs said of them.

    Weights are not among it. It lies in $MLGRAPH_CACHE, else in mlgraph below $XDG_CACHE_HOME or ~/.cache; a
    verb given --no-cache leaves it alone. For example: mlgraph cache clear
    """
    from mlgraph.cache.store import Damaged, age, clear, entries, folder
    from mlgraph.inspect.text.console import show, show_json, table
    from mlgraph.inspect.text.numbers import size

    if action == "clear":
        number, held = clear()
        if json:
            show_json({"folder": str(folder()), "entries": number, "bytes": held})
        else:
            show(f"deleted {number} {'entry' if number == 1 else 'entries'}, {size(held)}, in {folder()}")
        return
    listed: list[dict[str, Any]] = []
    for entry in entries():
        try:
            header = entry.header
        except Damaged:
            header = None
        source = header["source"] if header else "(damaged)"
        listed.append({"source": source, "bytes": entry.size, "seconds": round(age(entry))})
    if json:
        show_json({"folder": str(folder()), "entries": listed})
        return
    rows = [(size(one["bytes"]), _ago(one["seconds"]), one["source"]) for one in listed]
    told = f"{size(sum(one['bytes'] for one in listed))} in {folder()}"
    show(*([table(("size", "used", "source"), rows, right=(0, 1)), ""] if rows else []), told)


def _ago(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "now"
