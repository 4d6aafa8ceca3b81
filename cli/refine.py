"""``mlgraph refine``: a coarse model taken back up, or a model grown."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.options import (
    Axes,
    Dtype,
    Json,
    Loss,
    Out,
    ShardSize,
    Source,
    Tied,
    Trust,
    given,
    parse_axes,
)


def command(
    source: Source,
    out: Out = None,
    depth_mode: Annotated[
        str, typer.Option("--depth-mode", metavar="copy|scaled|identity", help="What the extra blocks do.")
    ] = "copy",
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=1, metavar="N", help="Grow: blocks made of each.", show_default=False),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", min=1, metavar="N", help="Grow: neurons made of each.", show_default=False),
    ] = None,
    axis: Axes = None,
    tied: Tied = "exact",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and write nothing.")
    ] = False,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Take a coarse model back to the architecture it came from; with --depth, --width or --axis, grow one.

    For example: mlgraph refine small -o big
    """
    from mlgraph.cli.coarsen import Write, report, run_pass
    from mlgraph.cli.results import open_program, status
    from mlgraph.passes import Decoalesce

    growth = given(depth=depth, width=width, axes=parse_axes(axis))
    operator = Decoalesce.from_options({"depth_mode": depth_mode, "tied": tied, **growth})
    program = open_program(source, trust=trust, loss=loss)
    with status("refining"):
        fine = run_pass(operator, program, weights=not dry_run)
    write = Write(out, "grown" if growth else "refined", dtype, shard_size)
    report(source, operator, program, fine, None if dry_run else write, json)
