"""``mlgraph interpolate``: a mix of two models of one architecture."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import AsClass, Dtype, Json, Out, ShardSize
from mlgraph.cli.pass_options import runs
from mlgraph.passes.interpolate import Interpolate


@runs(Interpolate)
@opens
def command(
    first: Annotated[str, typer.Argument(metavar="A", help="The model at alpha 0.", show_default=False)],
    second: Annotated[
        str,
        typer.Argument(metavar="B", help="The model at alpha 1, or the coarse one of A.", show_default=False),
    ],
    operator: Interpolate,
    opening: Opening,
    out: Out = None,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    as_class: AsClass = False,
    json: Json = False,
) -> None:
    """Mix two models of one architecture: (1 - alpha) A + alpha B.

    For example: mlgraph interpolate original refined --alpha 0.25 -o mixed. B may be the coarse model that
    was made of A; then --detail says how much is kept of what coarsening averaged away.
    """
    from mlgraph.cli.results import output, status, write_program
    from mlgraph.cli.screening import require_numbers
    from mlgraph.inspect.changes import new_notes
    from mlgraph.inspect.text.comparison import notes, outcome
    from mlgraph.inspect.text.console import show, show_json

    path = output(out, _label(operator), first, second)
    before, after = opening.pair(first, second)
    for program in (before, after):
        require_numbers(program)
    with status("interpolating"):
        mixed = operator(before, after)
    written = write_program(mixed, path, dtype=dtype, shard_size=shard_size, as_class=as_class)
    told = (*new_notes(before, mixed), *written.notes)
    if json:
        show_json(
            {
                "sources": [first, second],
                "pass": str(operator),
                "alpha": operator.alpha,
                "detail": operator.detail,
                "out": str(written.path),
                "form": written.form,
                "parameters": mixed.num_parameters(),
                "notes": list(told),
            }
        )
    else:
        show(outcome(str(written.path), written.form, mixed.num_parameters()), *notes(told))


def _label(operator: Interpolate) -> str:
    return f"mixed{operator.alpha:g}" if isinstance(operator.alpha, float) else "mixed"
