"""``mlgraph interpolate``: a mix of two models of one architecture."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.options import Dtype, Json, Loss, Out, ShardSize, Trust


def command(
    first: Annotated[str, typer.Argument(metavar="A", help="The model at alpha 0.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="The model at alpha 1.", show_default=False)],
    alpha: Annotated[float, typer.Option("--alpha", min=0.0, max=1.0, help="How much of B.")] = 0.5,
    out: Out = None,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    loss: Loss = True,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Mix two models of one architecture: (1 - alpha) A + alpha B.

    For example: mlgraph interpolate original refined --alpha 0.25 -o mixed
    """
    import mlgraph
    from mlgraph.cli.checks import require_numbers
    from mlgraph.cli.coarsen import new_notes
    from mlgraph.cli.results import default_output, open_program, status, write_program
    from mlgraph.inspect.text.comparison import notes, outcome
    from mlgraph.inspect.text.console import show, show_json

    before, after = (open_program(source, trust=trust, loss=loss) for source in (first, second))
    for program in (before, after):
        require_numbers(program)
    with status("interpolating"):
        mixed = mlgraph.interpolate(before, after, alpha=alpha)
    path = out or default_output(first, f"mixed{alpha:g}")
    written = write_program(mixed, path, dtype=dtype, shard_size=shard_size)
    told = (*new_notes(before, mixed), *written.notes)
    if json:
        show_json(
            {
                "sources": [first, second],
                "alpha": alpha,
                "out": str(written.path),
                "form": written.form,
                "parameters": mixed.num_parameters(),
                "notes": list(told),
            }
        )
    else:
        show(outcome(str(written.path), written.form, mixed.num_parameters()), *notes(told))
