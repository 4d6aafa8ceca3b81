"""The card of a model that is written: what the model is, what was done, its source's card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlgraph.files import write_text

if TYPE_CHECKING:
    from mlgraph.program import Program

CARD = "README.md"
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def write_card(program: Program, file: Path, source: Path | None, changes: Sequence[str]) -> None:
    """Write a model card to ``file``.

    Its front matter carries over the licence and language of the source's; below stand the passes in the
    order in which they ran, sizes, changed config fields, notes, and the source's card.
    """
    original = _card_of(source)
    front = _FRONT.match(original)
    lines = ["---", *_carried(front.group(1) if front else ""), "tags: [mlgraph]", "---", ""]
    lines += [f"# {program.name}", ""]
    lines += [f"{program.num_parameters():,} parameters, made by mlgraph from {_told(source)}.", ""]
    if program.history:
        lines += ["What was done, in this order:", "", *(f"- `{step}`" for step in program.history), ""]
    if changes:
        lines += ["Changed in the configuration:", "", *(f"- {change}" for change in changes), ""]
    if program.notes:
        lines += ["Notes:", "", *(f"- {note}" for note in program.notes), ""]
    body = original[front.end() :].strip() if front else original.strip()
    if body:
        lines += ["## The card of the model it came from", "", body, ""]
    write_text(file, "\n".join(lines))


def _card_of(source: Path | None) -> str:
    if source is None or not (source / CARD).is_file():
        return ""
    return (source / CARD).read_text(encoding="utf-8", errors="replace")


def _carried(front: str) -> list[str]:
    """The lines of a front matter that stay true: one-line fields on licence and language."""
    kept = ("license:", "license_name:", "license_link:", "language:", "library_name:", "pipeline_tag:")
    return [line for line in front.splitlines() if line.startswith(kept) and not line.rstrip().endswith(":")]


def _told(source: Path | None) -> str:
    return f"the model in `{source.name}`" if source is not None else "a model with random weights"
