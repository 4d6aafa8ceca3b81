"""``mlgraph blocks``: the chains of repeated blocks."""

from __future__ import annotations

from mlgraph.cli.options import Inputs, Json, Loss, Model, Source, Trust


def command(
    source: Source,
    inputs: Inputs = None,
    model: Model = None,
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """List the chains of repeated blocks, and what looks repeated but is not."""
    from mlgraph.cli.results import open_program
    from mlgraph.inspect.text.blocks import block_data, block_view
    from mlgraph.inspect.text.console import show, show_json

    program = open_program(source, trust=trust, loss=loss, inputs=inputs, model=model)
    if json:
        show_json(block_data(program))
    else:
        show(*block_view(program))
