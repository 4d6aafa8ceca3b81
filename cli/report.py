"""``mlgraph report``: training runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlgraph.cli.options import Json

if TYPE_CHECKING:
    from mlgraph.train.sweep.folder import StudyFolder


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run directories, or a study's.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="The HTML page; pictures go beside it.")
    ] = Path("report.html"),
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="The run to compare with; by default the best plain one."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a study's arms as a Markdown table, for a paper.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare training runs, or the arms of a study: loss against FLOPs and time, and what was saved.

    RUN… may be the folder of one study of mlgraph sweep. For example: mlgraph report runs/* -o report.html
    """
    from mlgraph.cli.render import training as render
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.train.errors import TrainError
    from mlgraph.train.results.report import read_run, write_report
    from mlgraph.train.sweep.folder import StudyFolder

    study = StudyFolder(runs[0])
    if study.exists:
        _study(runs, study, out, baseline, markdown, json)
        return
    if markdown:
        raise TrainError(f"--markdown tells of a study: {runs[0]} is no folder of mlgraph sweep.")

    report = write_report([read_run(path) for path in runs], out, baseline)
    show_json(render.report_json(report)) if json else show(*render.report(report))


def _study(
    runs: list[Path], study: StudyFolder, out: Path, baseline: str | None, markdown: bool, json: bool
) -> None:
    from mlgraph.cli.render import training as render
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.train.errors import TrainError
    from mlgraph.train.sweep.page import write_study
    from mlgraph.train.sweep.table import markdown as as_markdown

    if len(runs) > 1:
        raise TrainError(f"{runs[0]} is a study, which is reported by itself: name it alone.")
    if baseline is not None:
        raise TrainError("A study names its own baseline: leave --baseline out.")
    report = write_study(study, out)
    if json:
        show_json(report.to_json())
    elif markdown:
        typer.echo(as_markdown(report.table), nl=False)
    else:
        show(*render.study(report.table), "wrote " + ", ".join(str(path) for path in report.files))
