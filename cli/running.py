"""Running a pass on a model: what the verbs that make a program of another share, from trying to telling."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlgraph.cli.opening import Opening
from mlgraph.passes.coalesce import Coalesce

if TYPE_CHECKING:
    from mlgraph.cli.results import Written
    from mlgraph.inspect.changes import Effect
    from mlgraph.passes.base import Pass
    from mlgraph.passes.pipeline import Pipeline
    from mlgraph.program import Program
    from mlgraph.rewrite.targets import Candidate


@dataclass(frozen=True)
class Write:
    """Where a result goes, or the end of its default name, and the options of writing."""

    out: Path | None
    label: str
    dtype: str | None = None
    shard_size: str = "5GB"
    as_class: bool = False


@dataclass(frozen=True)
class Considered:
    """Sizes that were considered for a target, the first of them taken, and why better ones were not."""

    candidates: Sequence[Candidate] = ()
    left: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """A pass on a source, with the sizes that were considered, and its program where it is open already."""

    source: str
    opening: Opening
    operator: Pass | Pipeline
    sizes: Considered = Considered()
    program: Program | None = None


def run(
    job: Job,
    write: Write | None,
    json: bool,
    prepare: Callable[[Pass | Pipeline, Program], Callable[[Program], Program]] | None = None,
) -> None:
    """Apply a pass, or what ``prepare`` makes of it, to a model, write the result and tell what was done.

    What was not asked for by name stays where the class that is written has no other size for it.
    Without ``write`` that is done on shapes only, which costs no memory, and what was found is kept.
    """
    if write is None:
        report(job, _rehearsed(job), None, json)
        return
    from mlgraph.cli.results import output, status, write_program
    from mlgraph.cli.screening import floating_dtype, require_numbers
    from mlgraph.inspect.changes import effect

    path = output(write.out, write.label, job.source)
    program = job.program or job.opening.program(job.source)
    require_numbers(program)
    from mlgraph.interop.fitting.retry import expressible

    def apply(stays: tuple[str, ...]) -> Program:
        operator = leaving(job.operator, stays)
        applied = prepare(operator, program) if prepare is not None else operator
        with status(f"running {operator}"):
            return applied(program)

    def written(after: Program) -> Written:
        dtype, shard_size, as_class = write.dtype, write.shard_size, write.as_class
        return write_program(after, path, dtype=dtype, shard_size=shard_size, as_class=as_class)

    found = expressible(program, apply, written)
    made = replace(found.written, notes=(*found.notes, *found.written.notes))
    stays = dict.fromkeys(found.stays, "no configuration of the class has another size")
    dtype = floating_dtype(write.dtype) if write.dtype else None
    left = stays | asked_for(job.operator)
    report(job, effect(program, found.program, left, dtype), made, json)


def asked_for(operator: Pass | Pipeline) -> dict[str, str]:
    """The axes that a pass was told to leave, with that as the reason."""
    return dict.fromkeys(getattr(operator, "freeze", ()), "you asked for it")


def leaving(operator: Pass | Pipeline, stays: tuple[str, ...]) -> Pass | Pipeline:
    """The pass with which these axes and chains stay.

    Raises:
        AxisError: it cannot leave them, or what it changes was asked for by name.
    """
    from mlgraph.errors import AxisError

    if not stays:
        return operator
    if not isinstance(operator, Coalesce) or operator.axes or operator.layers:
        raise AxisError(f"{operator} says itself what changes")
    return replace(operator, freeze=(*operator.freeze, *stays))


def _rehearsed(job: Job) -> Effect:
    from mlgraph.cli.results import status
    from mlgraph.inspect.changes import Effect, effect

    operator = job.operator

    def rehearse() -> Effect:
        program = job.program or job.opening.program(job.source, weights=False)
        with status(f"trying {operator}"):
            after = operator.on_shapes(program)
        return effect(program, after, asked_for(operator))

    if job.program is not None or getattr(operator, "calibration", None) is not None:
        # what hangs on more than the source: a target, or a file that may be another one the next time
        return rehearse()
    name = f"{operator.name}-{hashlib.sha256(str(operator).encode()).hexdigest()[:16]}.json"
    found: Effect = job.opening.kept(job.source, name, Effect, rehearse)
    return found


def report(job: Job, done: Effect, written: Written | None, json: bool) -> None:
    """Tell what a pass did to a model, and where the result went unless ``written`` is None."""
    from mlgraph.cli.target_sizes import as_json, table_of
    from mlgraph.inspect.text import comparison as render
    from mlgraph.inspect.text.console import show, show_json

    sizes = job.sizes
    notes = (*done.notes, *sizes.left, *(written.notes if written else ()))
    if json:
        show_json(
            {
                "source": job.source,
                "pass": str(job.operator),
                "out": str(written.path) if written else None,
                "form": written.form if written else None,
                **asdict(done),
                "config": list(written.config) if written else [],
                "notes": list(notes),
                **({"candidates": as_json(sizes.candidates)} if sizes.candidates else {}),
            }
        )
        return
    lines = [
        *render.comparison(done.before, done.after, done.changed),
        *render.left_alone(done.kept),
        *render.notes(notes),
    ]
    if sizes.candidates and not written:
        lines += table_of(sizes.candidates)
    if written:
        lines += render.config_changes(written.config)
        lines += ["", render.outcome(str(written.path), written.form, done.after.parameters)]
    show(*lines)
