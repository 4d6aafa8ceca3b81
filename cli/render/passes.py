"""Every pass with its options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlgraph.inspect.text.console import heading, table

if TYPE_CHECKING:
    from mlgraph.passes.options import FieldHelp


def _references() -> Iterator[tuple[str, str, list[FieldHelp]]]:
    from mlgraph.passes.options import reference
    from mlgraph.passes.registry import PASSES, load_pass

    for name in PASSES:
        kind = load_pass(name)
        yield name, (kind.__doc__ or "").partition("\n")[0], list(reference(kind))


def listed() -> list[Any]:
    """A heading and a table for every pass."""
    lines: list[Any] = []
    for name, doc, options in _references():
        rows = [[line.name, line.default, f"{line.help}: {line.type}"] for line in options]
        lines += [heading(name), doc, table(["option", "default", "meaning"], rows), ""]
    return lines[:-1]


def listed_json() -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {"pass": name, "meaning": doc, "options": [asdict(line) for line in options]}
        for name, doc, options in _references()
    ]
