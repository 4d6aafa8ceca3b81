"""``mlgraph inspect``: what a model is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlgraph.cli.options import Json, Loss, Source, Trust


def command(
    source: Source,
    depth: Annotated[
        int | None,
        typer.Option("--depth", min=1, metavar="N", help="Levels of modules to show.", show_default=False),
    ] = None,
    params: Annotated[bool, typer.Option("--params", help="Give every parameter and buffer a line.")] = False,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Show the chains of repeated blocks instead.")
    ] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="Show the graph of one block of each chain instead.")
    ] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Show the generated forward functions instead.")
    ] = False,
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Show a model: its modules with repeats folded, dims in axis names, and sizes."""
    from mlgraph.cli.files import open_program
    from mlgraph.cli.modules import module_tree
    from mlgraph.cli.render.blocks import block_view
    from mlgraph.cli.render.comparison import notes
    from mlgraph.cli.render.console import console, show, show_json
    from mlgraph.cli.render.graph import forward_code, graph_view
    from mlgraph.cli.render.modules import tree_data, tree_table
    from mlgraph.cli.render.program import facts
    from mlgraph.cli.summary import summarize
    from mlgraph.train.flops import forward_by_module

    program = open_program(source, trust=trust, loss=loss)
    if blocks:
        show(*block_view(program))
        return
    if graph:
        show(*graph_view(program))
        return
    if code:
        typer.echo(forward_code(program), nl=False)
        return
    root, figures = module_tree(program, forward_by_module(program)), summarize(program)
    if json:
        show_json({**asdict(figures), "modules": tree_data(root), "notes": list(program.notes)})
        return
    show(tree_table(root, depth, params, console().width), "", facts(program, figures), *notes(program.notes))
