"""``mlgraph refine``: a coarse model taken back up, or a model grown."""

from __future__ import annotations

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import AsClass, DryRun, Dtype, Json, Out, ShardSize, Source
from mlgraph.cli.pass_options import runs
from mlgraph.cli.running import Job, Write, run
from mlgraph.passes.decoalesce import Decoalesce


@runs(Decoalesce)
@opens
def command(
    source: Source,
    operator: Decoalesce,
    opening: Opening,
    out: Out = None,
    dry_run: DryRun = False,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    as_class: AsClass = False,
    json: Json = False,
) -> None:
    """Take a coarse model back to the architecture it came from; with --depth, --width or --axis, grow one.

    For example: mlgraph refine small -o big
    """
    write = Write(out, "grown" if operator.grows else "refined", dtype, shard_size, as_class)
    run(Job(source, opening, operator), None if dry_run else write, json)
