"""``mlgraph coarsen``: a smaller model, by averaging neurons and blocks in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import AsClass, DryRun, Dtype, Json, Out, ShardSize, Source
from mlgraph.cli.pass_options import runs
from mlgraph.cli.running import Considered, Job, Write, run
from mlgraph.passes.coalesce import Coalesce

if TYPE_CHECKING:
    from mlgraph.passes.base import Pass
    from mlgraph.passes.pipeline import Pipeline
    from mlgraph.program import Program


@runs(Coalesce)
@opens
def command(
    source: Source,
    operator: Coalesce,
    opening: Opening,
    out: Out = None,
    dry_run: DryRun = False,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    as_class: AsClass = False,
    json: Json = False,
) -> None:
    """Make a model smaller by averaging neurons and blocks in groups.

    For example: mlgraph coarsen bert-base --depth 2 --width 2 -o small
    """
    if not operator.asks:
        raise typer.BadParameter(
            "say how much smaller: --depth N, --width N, --axis NAME=N or --target-params N"
        )
    program, sizes = None, Considered()
    if operator.target is not None:
        from mlgraph.cli.target_sizes import chosen

        program = opening.program(source, weights=not dry_run)
        operator, candidates, left = chosen(operator, program)
        sizes = Considered(candidates, left)
    write = None if dry_run else Write(out, _label(operator), dtype, shard_size, as_class)
    job = Job(source, opening, operator, sizes, program)
    run(job, write, json, lambda asked, fine: _calibrated(asked, fine, source))


def _label(operator: Coalesce) -> str:
    parts = [f"d{operator.depth}"] * (operator.depth > 1) + [f"w{operator.width}"] * (operator.width > 1)
    return "".join(parts) or "coarse"


def _calibrated(operator: Pass | Pipeline, program: Program, source: str) -> Callable[[Program], Program]:
    """The pass, which takes along what data shows of the program where a file of data is named."""
    from mlgraph.cli.calibrate import measured

    assert isinstance(operator, Coalesce)
    if operator.calibration is None or not operator.calibration.endswith(".toml"):
        return operator
    calibration = measured(program, source, Path(operator.calibration), operator.score == "taylor")
    return partial(replace(operator, calibration=None), calibration=calibration)
