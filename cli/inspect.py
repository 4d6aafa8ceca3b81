"""``mlgraph inspect``: what a model is made of."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.options import Inputs, Json, Loss, Model, Module, Source, Trust


def command(
    source: Source,
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
    module: Module = None,
    inputs: Inputs = None,
    model: Model = None,
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Show a model: its modules with repeats folded, dims in axis names, and sizes."""
    from mlgraph.cli.results import open_program
    from mlgraph.inspect.text.blocks import block_data, block_view
    from mlgraph.inspect.text.console import console, show, show_json
    from mlgraph.inspect.text.graph import code_data, forward_code, graph_data, graph_view
    from mlgraph.inspect.text.program import inspection, inspection_data

    asked = [name for name, on in (("--blocks", blocks), ("--graph", graph), ("--code", code)) if on]
    if len(asked) > 1:
        raise typer.BadParameter(f"{' and '.join(asked)} are views of their own; ask for one at a time")
    if asked and (params or depth is not None):
        raise typer.BadParameter(f"--depth and --params shape the tree of modules, which {asked[0]} replaces")
    program = open_program(source, trust=trust, loss=loss, inputs=inputs, model=model, module=module)
    if json:
        data = {"--blocks": block_data, "--graph": graph_data, "--code": code_data}
        show_json(data[asked[0]](program) if asked else inspection_data(program))
    elif blocks:
        show(*block_view(program))
    elif graph:
        show(*graph_view(program, console().width))
    elif code:
        typer.echo(forward_code(program), nl=False)
    else:
        show(*inspection(program, console().width, depth, params))
