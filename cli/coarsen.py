"""``mlgraph coarsen``: a smaller model, by averaging neurons and blocks in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlgraph.cli.options import (
    AsClass,
    DryRun,
    Dtype,
    Inputs,
    Json,
    Loss,
    Model,
    Module,
    Out,
    ShardSize,
    Source,
    Trust,
)
from mlgraph.cli.pass_options import runs
from mlgraph.passes.coalesce import Coalesce

if TYPE_CHECKING:
    from mlgraph.passes.base import Pass
    from mlgraph.program import Program
    from mlgraph.rewrite.targets import Candidate


@runs(Coalesce)
def command(
    source: Source,
    operator: Coalesce,
    out: Out = None,
    dry_run: DryRun = False,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    as_class: AsClass = False,
    module: Module = None,
    inputs: Inputs = None,
    model: Model = None,
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Make a model smaller by averaging neurons and blocks in groups.

    For example: mlgraph coarsen bert-base --depth 2 --width 2 -o small
    """
    from mlgraph.cli.calibrate import measured
    from mlgraph.cli.results import open_program, status
    from mlgraph.cli.targets import chosen

    if not operator.asks:
        raise typer.BadParameter(
            "say how much smaller: --depth N, --width N, --axis NAME=N or --target-params N"
        )
    program = open_program(source, trust=trust, loss=loss, inputs=inputs, model=model, module=module)
    sizes: list[Candidate] = []
    left: list[str] = []
    if operator.target is not None:
        operator, sizes, left = chosen(operator, program)
    applied: Callable[[Program], Program] = operator
    if operator.calibration is not None and operator.calibration.endswith(".toml") and not dry_run:
        calibration = measured(program, source, Path(operator.calibration), operator.score == "taylor")
        applied = partial(replace(operator, calibration=None), calibration=calibration)
    with status("coarsening"):
        coarse = operator.on_shapes(program) if dry_run else run_pass(applied, program)
    report(
        source,
        operator,
        program,
        coarse,
        None if dry_run else Write(out, _label(operator), dtype, shard_size, as_class),
        json,
        Sizes(sizes, left),
    )


@dataclass(frozen=True)
class Write:
    """Where a result goes, or the end of its default name, and the options of writing."""

    out: Path | None
    label: str
    dtype: str | None = None
    shard_size: str = "5GB"
    as_class: bool = False


@dataclass(frozen=True)
class Sizes:
    """Sizes that were considered for a target, the first of them taken, and why better ones were not."""

    candidates: Sequence[Candidate] = ()
    left: Sequence[str] = ()


def _label(operator: Coalesce) -> str:
    parts = [f"d{operator.depth}"] * (operator.depth > 1) + [f"w{operator.width}"] * (operator.width > 1)
    return "".join(parts) or "coarse"


def run_pass(operator: Callable[[Program], Program], program: Program) -> Program:
    """Apply a pass to a program whose weights are all numbers."""
    from mlgraph.cli.checks import require_numbers

    require_numbers(program)
    return operator(program)


def report(
    source: str,
    operator: Pass,
    before: Program,
    after: Program,
    write: Write | None,
    json: bool,
    sizes: Sizes | None = None,
) -> None:
    """Write the result, unless ``write`` is None, and tell what was done."""
    from mlgraph.cli.results import default_output, write_program
    from mlgraph.cli.targets import as_json, table_of
    from mlgraph.inspect.changes import changes, kept
    from mlgraph.inspect.summary import summarize
    from mlgraph.inspect.text import comparison as render
    from mlgraph.inspect.text.console import show, show_json

    written = None
    if write is not None:
        path = write.out or default_output(source, write.label)
        written = write_program(
            after, path, dtype=write.dtype, shard_size=write.shard_size, as_class=write.as_class
        )
    figures = summarize(before), summarize(after)
    changed, alone = changes(before, after), kept(before, after, getattr(operator, "freeze", ()))
    notes = (*new_notes(before, after), *(sizes.left if sizes else ()), *(written.notes if written else ()))
    if json:
        show_json(
            {
                "source": source,
                "pass": str(operator),
                "out": str(written.path) if written else None,
                "form": written.form if written else None,
                "before": asdict(figures[0]),
                "after": asdict(figures[1]),
                "changed": [asdict(change) for change in changed],
                "kept": [asdict(axis) for axis in alone],
                "config": list(written.config) if written else [],
                "notes": list(notes),
                **({"candidates": as_json(sizes.candidates)} if sizes and sizes.candidates else {}),
            }
        )
        return
    lines = [*render.comparison(*figures, changed), *render.left_alone(alone), *render.notes(notes)]
    if sizes and sizes.candidates and write is None:
        lines += table_of(sizes.candidates)
    if written:
        lines += render.config_changes(written.config)
        lines += ["", render.outcome(str(written.path), written.form, figures[1].parameters)]
    show(*lines)


def new_notes(before: Program, after: Program) -> tuple[str, ...]:
    """The notes of both programs, each once."""
    return tuple(dict.fromkeys(map(str, (*before.notes, *after.notes))))
