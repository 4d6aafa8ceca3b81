"""Every pass with its options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlgraph.inspect.text.console import heading, table

if TYPE_CHECKING:
    from mlgraph.passes.base import Pass


def listed(passes: Mapping[str, type[Pass]]) -> list[Any]:
    """A heading, what it does, and a table of options for every pass."""
    from mlgraph.passes.options import reference

    lines: list[Any] = []
    for name, kind in passes.items():
        rows = [[line.name, line.default, f"{line.help}: {line.type}"] for line in reference(kind)]
        options = table(["option", "default", "meaning"], rows)
        lines += [heading(name), *_paragraphs(kind), "", options, ""]
    return lines[:-1]


def listed_json(passes: Mapping[str, type[Pass]]) -> list[dict[str, Any]]:
    """The same as plain values."""
    from mlgraph.passes.options import reference

    return [
        {"pass": name, "meaning": " ".join(_paragraphs(kind)), "options": [*map(asdict, reference(kind))]}
        for name, kind in passes.items()
    ]


def _paragraphs(kind: type[Pass]) -> list[str]:
    """The first two paragraphs of a pass's documentation, each on one line, without marks of code."""
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")[:2]]
