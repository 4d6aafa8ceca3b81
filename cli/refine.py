"""``mlgraph refine``: a coarse model taken back up, or a model grown."""

from __future__ import annotations

from mlgraph.cli.options import (
    AsClass,
    DryRun,
    Dtype,
    Inputs,
    Json,
    Loss,
    Model,
    Out,
    ShardSize,
    Source,
    Trust,
)
from mlgraph.cli.pass_options import runs
from mlgraph.passes.decoalesce import Decoalesce


@runs(Decoalesce)
def command(
    source: Source,
    operator: Decoalesce,
    out: Out = None,
    dry_run: DryRun = False,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    as_class: AsClass = False,
    inputs: Inputs = None,
    model: Model = None,
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Take a coarse model back to the architecture it came from; with --depth, --width or --axis, grow one.

    For example: mlgraph refine small -o big
    """
    from mlgraph.cli.coarsen import Write, report, run_pass
    from mlgraph.cli.results import open_program, status

    program = open_program(source, trust=trust, loss=loss, inputs=inputs, model=model)
    with status("refining"):
        fine = operator.on_shapes(program) if dry_run else run_pass(operator, program)
    write = Write(out, "grown" if operator.grows else "refined", dtype, shard_size, as_class)
    report(source, operator, program, fine, None if dry_run else write, json)
