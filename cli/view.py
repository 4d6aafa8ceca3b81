"""``mlgraph view``: a model as a block diagram, in a page or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Source

if TYPE_CHECKING:
    from mlgraph.program import Program


@opens
def command(
    source: Source,
    opening: Opening,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="A second model, to be shown beside.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="A page, OUT.html, or a picture, OUT.svg."),
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=1, metavar="N", help="Show the model coarsened by this beside it.")
    ] = 1,
    width: Annotated[int, typer.Option("--width", min=1, metavar="N", help="The same for width.")] = 1,
) -> None:
    """Draw a model: its parts with repeated blocks folded, and one block of each chain; axes are coloured.

    A second model is shown beside the first: one that is named, one coarsened as --depth and --width say,
    or the one that a coarsened model came from.

    For example: mlgraph view bert --depth 2 --width 2 -o bert.html
    """
    from mlgraph.cli.results import default_output, status
    from mlgraph.errors import FileError
    from mlgraph.files import write_text
    from mlgraph.inspect.text.console import show

    if other is not None and (depth > 1 or width > 1):
        raise typer.BadParameter("name another model or coarsen this one, not both")
    path = out or default_output(source, "").with_suffix(".html")
    if path.suffix not in (".html", ".svg"):
        raise FileError(f"{path} ends in neither .html nor .svg: name a page or a picture.")
    from mlgraph.view import page, svg, view

    if other is not None:
        pair = opening.pair(source, other, weights=False)
        shown = dict(zip((source, other), pair, strict=True))
    else:
        program = opening.program(source, weights=False)
        shown = _beside(program, depth, width)
    with status("drawing"):
        views = {label: view(one) for label, one in shown.items()}
        text = page(views) if path.suffix == ".html" else svg(views)
    write_text(path, text)
    show(f"wrote {path}")


def _beside(program: Program, depth: int, width: int) -> dict[str, Program]:
    """A program by its label; beside it the coarse one, without weights, or the one that it came from."""
    from mlgraph.passes import Coalesce

    if depth == width == 1:
        lineage = program.lineage
        return {"": program} if lineage is None else {"before": lineage.parent, lineage.operation: program}
    operator = Coalesce(depth=depth, width=width)
    return {"fine": program, str(operator): operator(program.skeleton())}
