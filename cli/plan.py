"""``mlgraph plan``: what a budget of FLOPs pays for, and what recipes could save of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source

if TYPE_CHECKING:
    from mlgraph.train.plan import Ceiling, Plan


@opens
def command(
    source: Source,
    opening: Opening,
    budget: Annotated[
        float,
        typer.Option("--budget", metavar="FLOPS", help="Training FLOPs in all, as 1e18.", show_default=False),
    ],
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", min=1, metavar="N", help="Samples of a step; the example's.", show_default=False
        ),
    ] = None,
    sequence: Annotated[
        int | None,
        typer.Option(
            "--sequence", min=1, metavar="N", help="Tokens of a sample; the example's.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="CONFIG", help="Write a run to start from.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Tell what a budget pays for, and what each recipe could save of it at most.

    The ceiling is what a recipe would save if a step of a coarser level were worth one of the model
    itself; beside it stands what studies measured. Nothing is run. For example: mlgraph plan MODEL
    --budget 1e18 --batch 64 -o run.toml
    """
    from mlgraph.cli.results import status
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.train.plan import configuration, plan, to_json
    from mlgraph.train.starter import write_configuration

    program = opening.program(source, weights=False)
    with status("costing levels"):
        found = plan(program, budget, batch, sequence)
    if out is not None:
        write_configuration(configuration(found, program, source), out)
    written = [] if out is None else [f"wrote {out}: name the data, and tune rates and coarse steps"]
    show_json(to_json(found)) if json else show(*_rendered(found), *written)


def _rendered(found: Plan) -> list[Any]:
    from mlgraph.inspect.text.console import bullets, table
    from mlgraph.inspect.text.numbers import count

    sizes = ", ".join(f"{name} {list(shape)}" for name, shape in found.batch)
    levels = [[c.way, f"{c.level}", count(c.parameters), f"{c.share:.1%}"] for c in found.levels]
    deepest = max(level for ceiling in found.ceilings for level, _ in ceiling.steps)
    ceilings = [[c.kind, c.way, f"{c.saving:.0%}", *_steps(c, deepest)] for c in found.ceilings]
    headers = ["recipe", "way", "at most", *(f"level {n}" for n in range(1, deepest + 1))]
    measured = [f"{c.kind} in {c.way}: {_measured(c)}" for c in found.ceilings if c.measured]
    return [
        f"{found.budget:.3g} FLOPs pay {found.steps:,} steps on {sizes}: {count(found.tokens)} tokens",
        "",
        table(["way", "level", "parameters", "cost of a step"], levels, right=(1, 2, 3)),
        "",
        table(headers, ceilings, right=range(2, len(headers))),
        "",
        "saved at most, if a step of a coarser level were worth one of the model itself",
        *(bullets("measured, against a baseline tuned as hard", measured) if measured else []),
        *(bullets("not possible", found.notes) if found.notes else []),
    ]


def _steps(ceiling: Ceiling, deepest: int) -> list[str]:
    """Steps of every level in all."""
    totals = [
        sum(steps for level, steps in ceiling.steps if level == number) for number in range(1, deepest + 1)
    ]
    return [f"{total:,}" if total else "" for total in totals]


def _measured(ceiling: Ceiling) -> str:
    return "; ".join(
        f"{'/'.join(f'{saved:.0%}' for saved in one.saved)} at {one.at:,} steps" for one in ceiling.measured
    )
