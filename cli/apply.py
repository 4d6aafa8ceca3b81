"""``mlgraph apply``: a pipeline of passes run on a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import AsClass, DryRun, Dtype, Json, Out, ShardSize, Source
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
    from mlgraph.cli.results import output, status, write_program
    from mlgraph.cli.screening import floating_dtype, require_numbers
    from mlgraph.inspect.changes import new_notes
    from mlgraph.inspect.summary import summarize
    from mlgraph.inspect.text import comparison as render
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.passes.pipeline import parse_pipeline

    operator = parse_pipeline(pipeline)
    path = None if dry_run else output(out, "applied", source)
    program = opening.program(source)
    require_numbers(program)
    with status(f"applying {operator}"):
        result = operator(program)
    before, after = summarize(program), summarize(result, floating_dtype(dtype) if dtype else None)
    written = None
    if path is not None:
        written = write_program(result, path, dtype=dtype, shard_size=shard_size, as_class=as_class)
    told = (*new_notes(program, result), *(written.notes if written else ()))
    if json:
        show_json(
            {
                "source": source,
                "pipeline": str(operator),
                "out": str(written.path) if written else None,
                "form": written.form if written else None,
                "before": asdict(before),
                "after": asdict(after),
                "notes": list(told),
            }
        )
        return
    lines = [*render.comparison(before, after, render.chain_changes(before, after)), *render.notes(told)]
    if written:
        lines += render.config_changes(written.config)
        lines += ["", render.outcome(str(written.path), written.form, after.parameters)]
    show(*lines)
