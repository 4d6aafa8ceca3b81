"""Two programs' figures side by side: before and after a pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.inspect.text.console import bullets, heading, table
from mlgraph.inspect.text.numbers import count, plural, ratio, size

if TYPE_CHECKING:
    from rich.table import Table

    from mlgraph.inspect.changes import Change, Kept
    from mlgraph.inspect.summary import Summary
    from mlgraph.program import Note


def comparison(before: Summary, after: Summary, changes: Iterable[Change]) -> list[Any]:
    """A table of figures, axes and chains of blocks, before → after."""
    return [figures_table(before, after, changes)]


def figures_table(
    before: Summary, after: Summary, changes: Iterable[Change], rest: Iterable[Sequence[str]] = ()
) -> Table:
    """The same with the rows of ``rest`` below."""
    rows: list[Sequence[str]] = [
        _figure("parameters", before.parameters, after.parameters, count),
        _figure(f"memory ({_dtypes(before, after)})", before.bytes, after.bytes, size),
        _figure(f"training FLOPs per {before.unit}", before.flops, after.flops, count),
    ]
    for change in changes:
        what = change.name if change.number == 1 else f"{change.name} ×{change.number}"
        kind = "blocks" if change.kind == "blocks" else "axis"
        rows.append(
            (f"{kind} {what}", str(change.before), str(change.after), ratio(change.after, change.before))
        )
    return table(("", "before", "after", "ratio"), [*rows, *rest], right=(1, 2, 3))


def _dtypes(before: Summary, after: Summary) -> str:
    return " → ".join(dict.fromkeys("+".join(each.dtypes) for each in (before, after)))


def left_alone(kept: Iterable[Kept]) -> list[Any]:
    """The axes that a pass left as they were, and why."""
    rows = [
        (axis.name if axis.number == 1 else f"{axis.name} ×{axis.number}", str(axis.size), axis.reason)
        for axis in kept
    ]
    if not rows:
        return []
    return [Text(), heading("left as they are"), table(("axis", "size", "why"), rows, right=(1,))]


def notes(told: Iterable[Note | str]) -> list[Any]:
    """What else is to be known."""
    return bullets("notes", map(str, told))


def config_changes(lines: Iterable[str]) -> list[Any]:
    """The config fields or keyword arguments that changed."""
    return bullets("configuration", lines)


def outcome(path: str, form: str, parameters: int) -> Text:
    """The closing line of a verb that wrote something."""
    what = {"huggingface": "a Hugging Face model", "program": "a program", "timm": "a timm model"}.get(
        form, form
    )
    line = f"wrote {path} ({what}, {plural_count(parameters)})"
    return Text(line, no_wrap=True, overflow="ignore")


def plural_count(parameters: int) -> str:
    """``"2.9 M parameters"``."""
    return plural(parameters, "parameter") if parameters < 10_000 else f"{count(parameters)} parameters"


def _figure(name: str, before: float, after: float, form: Any) -> tuple[str, str, str, str]:
    return name, form(before), form(after), ratio(after, before)
