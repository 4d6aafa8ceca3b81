"""``mlgraph apply``: a pipeline of passes run on a model."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import AsClass, DryRun, Dtype, Json, Out, ShardSize, Source
from mlgraph.cli.running import Job, Write, run
from mlgraph.passes.registry import PASSES

_PASSES = (
    f'Passes, as "coalesce{{width=2}};decoalesce": {", ".join(PASSES)}; mlgraph passes lists their options.'
)


@opens
def command(
    pipeline: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE",
            help=_PASSES,
            show_default=False,
        ),
    ],
    source: Source,
    opening: Opening,
    out: Out = None,
    dry_run: DryRun = False,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    as_class: AsClass = False,
    json: Json = False,
) -> None:
    """Run a pipeline of passes on a model.

    For example: mlgraph apply "coalesce{depth=2,width=2};decoalesce" bert -o regrown
    """
    from mlgraph.passes.pipeline import parse_pipeline

    passes = parse_pipeline(pipeline)
    operator = passes.passes[0] if len(passes.passes) == 1 else passes
    write = None if dry_run else Write(out, "applied", dtype, shard_size, as_class)
    run(Job(source, opening, operator), write, json)
