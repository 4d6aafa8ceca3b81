"""``mlgraph sweep``: a study as a TOML file describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlgraph.cli.options import Json


def command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A TOML file.", show_default=False)],
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Processes that share the runs.")
    ] = 1,
    devices: Annotated[
        str, typer.Option("--devices", metavar="LIST", help="GPUs for the workers in turn, as 0,1.")
    ] = "",
    json: Json = False,
) -> None:
    """Tune training recipes and a baseline alike, and run the best of each with every seed.

    Stopped at any moment, the same command goes on; started on several machines over one folder, they
    share the runs. For example: mlgraph sweep study.toml --workers 2
    """
    from mlgraph.cli.opening import open_program
    from mlgraph.cli.render import training as render
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.train.sweep.study import load_study
    from mlgraph.train.sweep.sweep import sweep
    from mlgraph.train.sweep.table import tabulate

    loaded = load_study(study)
    chosen = [device for device in devices.split(",") if device]
    done = sweep(loaded, open_program, workers, chosen, lambda text: typer.echo(text, err=True))
    found = tabulate(loaded, done.outcomes)
    show_json(found.to_json()) if json else show(*render.study(found))
