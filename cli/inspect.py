"""``mlgraph inspect``: what a model is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source

if TYPE_CHECKING:
    from mlgraph.program import Program


@opens
def command(
    source: Source,
    opening: Opening,
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=1, metavar="N", help="Levels of modules to show.", show_default=False),
    ] = None,
    params: Annotated[
        bool, typer.Option("--params", help="Give every parameter and buffer of every module a line.")
    ] = False,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Show the chains of repeated blocks instead.")
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Show the graph of one block of each chain instead.")
    ] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Show the generated forward functions instead.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            metavar="N",
            help="Show instead what a batch of N samples costs: FLOPs and bytes, block by block.",
            show_default=False,
        ),
    ] = None,
    sequence: Annotated[
        int | None,
        typer.Option(
            "--sequence", min=1, metavar="N", help="The same for samples of N tokens.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show a model: its modules with repeats folded, dims in axis names, and sizes."""
    from mlgraph.inspect.text.blocks import block_data, block_view
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.inspect.text.program import inspection, inspection_data

    asked = [name for name, on in (("--blocks", blocks), ("--graph", graph), ("--code", code)) if on]
    if len(asked) > 1:
        raise typer.BadParameter(f"{' and '.join(asked)} are views of their own; ask for one at a time")
    if asked and (params or depth is not None):
        raise typer.BadParameter(f"--depth and --params shape the tree of modules, which {asked[0]} replaces")
    if batch is not None or sequence is not None:
        if asked or params or depth is not None:
            raise typer.BadParameter("--batch and --sequence give a view of their own; ask for it alone")
        _price(source, opening, batch, sequence, json)
        return
    if graph or code:
        _draw(opening.program(source, weights=False), graph, json)
        return
    shown = opening.portrait(source)
    if json:
        show_json(block_data(shown.blocks) if blocks else inspection_data(shown))
    elif blocks:
        show(*block_view(shown.blocks))
    else:
        show(*inspection(shown, console().width, depth, params))


def _price(source: str, opening: Opening, batch: int | None, sequence: int | None, json: bool) -> None:
    """What a batch costs."""
    from mlgraph.inspect.cost import Cost, cost
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.inspect.text.cost import cost_view

    found: Cost = opening.kept(
        source,
        f"cost-{batch}-{sequence}.json",
        Cost,
        lambda: cost(opening.program(source, weights=False), batch, sequence),
    )
    show_json(asdict(found)) if json else show(*cost_view(found))


def _draw(program: Program, graph: bool, json: bool) -> None:
    """The graph of one block of each chain, or the generated code."""
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.inspect.text.graph import code_data, forward_code, graph_data, graph_view

    if json:
        show_json(graph_data(program) if graph else code_data(program))
    elif graph:
        show(*graph_view(program, console().width))
    else:
        typer.echo(forward_code(program), nl=False)
