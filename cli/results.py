"""Reading the programs that verbs work on, and writing those that they make."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from mlgraph.program import Program


@dataclass(frozen=True)
class Written:
    """Where a program went, in which form, and what is to be told.

    ``form`` is ``"program"``, ``"huggingface"`` or ``"timm"``; ``config`` lists the config fields or keyword
    arguments that changed.
    """

    path: Path
    form: str
    notes: tuple[str, ...] = ()
    config: tuple[str, ...] = ()


def warn(sentence: str) -> None:
    """Say on standard error what is to be known and stops nothing."""
    print(f"mlgraph: {' '.join(sentence.split())}", file=sys.stderr)


@contextmanager
def status(doing: str) -> Iterator[None]:
    """A spinner with the seconds that have passed, on standard error where that is a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns, watched = (SpinnerColumn(), TextColumn(doing), TimeElapsedColumn()), sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not watched) as shown:
        shown.add_task(doing, total=None)
        yield


def is_huggingface(program: Program) -> bool:
    """Whether the program came from a Hugging Face directory or config: results of it are directories."""
    from mlgraph.program import HuggingFaceOrigin

    origin = program.origin
    return isinstance(origin, HuggingFaceOrigin) and bool(origin.path or origin.config_path)


def default_output(source: str, label: str) -> Path:
    """A name in the working directory: the source's, with what was done to it; a directory's is one too."""
    plain = re.sub(r"^(hf|timm):", "", source).split(",")[0].rstrip("/")
    stem = Path(plain).resolve().name if Path(plain).exists() else Path(plain).name
    stem = re.sub(r"\.(pt2?|json|pth|pkl|bin|ckpt|gguf|safetensors)$", "", stem) or "model"
    name = f"{stem}-{label}" if label else stem
    return Path(name if Path(source).is_dir() or source.endswith(".gguf") else f"{name}.pt")


def output(out: Path | None, label: str, *sources: str) -> Path:
    """Where a result goes: ``out``, or a name made of the first source's.

    Raises:
        MlgraphError: it is one of the sources, which would be lost.
    """
    path = out or default_output(sources[0], label)
    require_apart(path, *sources)
    return path


def require_apart(path: Path, *sources: str) -> None:
    """Raise MlgraphError where ``path`` is one of the sources."""
    if is_one_of(path, sources):
        raise MlgraphError(f"{path} is a source itself, which would be lost: give another name with -o.")


def is_one_of(path: Path, sources: Iterable[str]) -> bool:
    """Whether a path is that of one of the sources."""
    return path.exists() and any(Path(source).exists() and path.samefile(source) for source in sources)


def write_program(
    program: Program,
    out: Path,
    *,
    dtype: str | None = None,
    shard_size: str = "5GB",
    tokenizer: Path | None = None,
    as_class: bool = False,
    or_program: bool = False,
) -> Written:
    """Write a program to ``out``, in the form that it came in where ``out`` has no ending.

    What came from a Hugging Face directory or config goes into a directory, and what came from timm into
    a file for ``create_model`` where ``out`` ends in ``.safetensors``. A name that ends in ``.pt`` always
    gives a saved program. What no config can express raises NotExpressible, and nothing is written;
    with ``or_program`` it is saved as a program beside ``out``, and the notes of the result say why.
    With ``as_class`` the class is written with constants of its own where it has others.
    ``dtype`` converts floating-point tensors; ``shard_size`` is that of Hugging Face shards; ``tokenizer`` a
    folder whose tokenizer goes into the directory. What was at ``out`` before stays until the new one is
    complete.
    """
    from mlgraph.cli.screening import checked, floating_dtype, in_dtype
    from mlgraph.interop.fitting.fit import NotExpressible
    from mlgraph.program import TimmOrigin
    from mlgraph.storage import save

    why: tuple[str, ...] = ()
    kind = floating_dtype(dtype) if dtype is not None else None
    program = checked(program)
    try:
        if is_huggingface(program) and out.suffix != ".pt":
            from mlgraph.interop.huggingface import save_huggingface

            with writing(out) as progress:
                saved = save_huggingface(
                    program,
                    out,
                    dtype=kind,
                    shard_size=shard_size,
                    tokenizer_dir=tokenizer,
                    as_class=as_class,
                    progress=progress,
                )
            return Written(out, "huggingface", saved.notes, saved.changes)
        if isinstance(program.origin, TimmOrigin) and out.suffix == ".safetensors":
            from mlgraph.interop.timm import save_timm

            with status(f"writing {out}"):
                made = save_timm(in_dtype(program, kind), out, as_class=as_class)
            return Written(out, "timm", (f"load it with {made.call}", *made.notes), made.changes)
    except NotExpressible as reason:
        if not or_program:
            raise
        out = out.with_name(out.name + ".pt")
        why = (f"saved as a program instead: {reason}",)
    with writing(out) as progress:
        save(in_dtype(program, kind), out, progress=progress)
    return Written(out, "program", why)


@contextmanager
def writing(out: Path) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts bytes, on standard error where that is a terminal; yields what to call.

    Before the first byte, while it is found out how the result is to be said, it pulses and counts seconds.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(f"writing {out}"), BarColumn(20), DownloadColumn(), TimeElapsedColumn())
    console, watched = Console(stderr=True), sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=not watched) as bar:
        task = bar.add_task("write", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
