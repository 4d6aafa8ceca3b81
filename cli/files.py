"""Reading the programs that verbs work on, and writing those that they make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from mlgraph.program import Program


@dataclass(frozen=True)
class Written:
    """Where a program went, in which form (``"program"`` or ``"huggingface"``), and what is to be told.

    ``config`` lists the fields of a config.json that changed.
    """

    path: Path
    form: str
    notes: tuple[str, ...] = ()
    config: tuple[str, ...] = ()


def open_program(
    source: str, *, trust: bool = False, loss: bool = True, inputs: tuple[str, ...] = ()
) -> Program:
    """The program of a SOURCE string, with a sign of life on a terminal while it is captured."""
    with status(f"reading {source}"):
        from mlgraph.sources import open_source
        from mlgraph.sources.specs import parse_inputs

        given = parse_inputs(inputs) if inputs else None
        if given is None and Path(source).is_dir():
            from mlgraph.emit.huggingface import read_skeleton

            known = read_skeleton(source)
            if known is not None:
                return known
        return open_source(source, trust=trust, loss=loss, inputs=given)


@contextmanager
def status(doing: str) -> Iterator[None]:
    """A spinner on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(doing):
        yield


def is_huggingface(program: Program) -> bool:
    """Whether the program came from a Hugging Face directory, so that a result of it goes into one."""
    return program.origin.get("kind") == "huggingface" and "path" in program.origin


def default_output(source: str, label: str, program: Program) -> Path:
    """A name in the working directory: the source's, with what was done to it."""
    plain = re.sub(r"^(hf|timm):", "", source).split(",")[0].rstrip("/")
    stem = Path(plain).resolve().name if Path(plain).exists() else Path(plain).name
    stem = re.sub(r"\.(pt2?|json|pth|pkl)$", "", stem) or "model"
    name = f"{stem}-{label}" if label else stem
    return Path(name if is_huggingface(program) else f"{name}.pt")


def write_program(program: Program, out: Path) -> Written:
    """Write a program to ``out``: a Hugging Face directory where it came from one, else a saved program.

    A name that ends in ``.pt`` always gives a saved program. What cannot be written as a Hugging Face
    model is saved as a program beside ``out``, and the notes of the result say why. What was at ``out``
    before stays until the new one is complete.
    """
    from mlgraph.storage import save

    with status(f"writing {out}"):
        if is_huggingface(program) and out.suffix != ".pt":
            from mlgraph.emit.huggingface import NotExpressible, save_huggingface

            try:
                saved = save_huggingface(program, out)
                return Written(out, "huggingface", saved.notes, saved.changes)
            except NotExpressible as reason:
                out = out.with_name(out.name + ".pt")
                save(program, out)
                return Written(out, "program", (f"saved as a program, not a Hugging Face model: {reason}",))
        save(program, out)
        return Written(out, "program")
