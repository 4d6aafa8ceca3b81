"""``mlgraph verify``: whether what mlgraph infers of a model and does to it is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source


@opens
def command(
    source: Source,
    opening: Opening,
    checks: Annotated[
        list[str] | None,
        typer.Option("--check", metavar="NAME", help="Run this check only; repeatable.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of permutations and inputs.")] = 0,
    json: Json = False,
) -> None:
    """Check a model's axes by permuting them, and the transfers, growth, gradients and files by their laws.

    With --model, the model that it came from, the two also run side by side. Exits with code 1 where a check
    fails, naming the axis and where the largest error arose.
    """
    import mlgraph
    from mlgraph.cli.results import status
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.inspect.text.verification import verdict, verification
    from mlgraph.interop.open import holds_weights_alone
    from mlgraph.interop.state_dict import model_of
    from mlgraph.verify.checks import CHECKS

    # a state dict takes it to be opened, anything else to be compared with
    program = (opening if holds_weights_alone(source) else replace(opening, model=None)).program(source)
    with status("verifying"):
        model = model_of(program, opening.model) if opening.model is not None else None
        report = mlgraph.verify(program, tuple(checks or CHECKS), seed=seed, model=model)
    if json:
        show_json(report.to_json())
    else:
        show(*verification(report))
    if not report.passed:
        typer.echo(f"mlgraph: {verdict(report)}", err=True)
        raise typer.Exit(1)
