"""``mlgraph report``: training runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlgraph.cli.options import Json


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories.", show_default=False)],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="The HTML page; pictures go beside it.")
    ] = Path("report.html"),
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="The run to compare with; by default the best plain one."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare training runs: loss against FLOPs and time, and what was saved at equal loss.

    For example: mlgraph report runs/* -o report.html
    """
    from mlgraph.cli.render import training as render
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.train.results.report import read_run, write_report

    report = write_report([read_run(path) for path in runs], out, baseline)
    show_json(render.report_json(report)) if json else show(*render.report(report))
