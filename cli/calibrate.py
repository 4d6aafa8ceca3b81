"""``mlgraph calibrate``: what data shows of a model, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.calibration import Calibration


@opens
def command(
    source: Source,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A TOML file with a section data.", show_default=False)
    ],
    opening: Opening,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="Where to write.", show_default=False)
    ] = None,
    batches: Annotated[int, typer.Option("--batches", metavar="N", help="Batches of the data.", min=1)] = 8,
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients/--no-gradients",
            help="Take gradients too, where there is a loss; without, the model may be larger than memory.",
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Measure what data shows of a model: activations, gradients, how much blocks do.

    For example: mlgraph calibrate bert-base run.toml -o bert.calibration, then
    mlgraph coarsen bert-base --depth 2 --reduce select --score influence --calibrate bert.calibration
    """
    from mlgraph.cli.results import default_output
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.storage.calibration import save_calibration

    program = opening.program(source)
    found = measured(program, source, data, gradients, batches)
    path = out or default_output(source, "").with_suffix(".calibration")
    save_calibration(found, path)
    influence = {name: chain.influence.tolist() for name, chain in found.chains.items()}
    if json:
        show_json({"source": source, "out": str(path), "batches": len(found.inputs), "influence": influence})
        return
    lines = [f"{name}: {' '.join(f'{value:.3f}' for value in row)}" for name, row in influence.items()]
    told = ["influence of blocks, 1 - cosine of input and output", *lines, ""] if lines else []
    if gradients and all(axis.taylor is None for axis in found.axes.values()):
        told += ["no gradients, for there is no loss: score taylor is not known", ""]
    show(*told, f"wrote {path}: {len(found.inputs)} batches, {len(found.axes)} axes")


def measured(
    program: Program, source: str, data: Path, gradients: bool, batches: int | None = None
) -> Calibration:
    """The calibration of a program on the training data that a TOML file names."""
    from mlgraph.cli.results import status
    from mlgraph.cli.screening import require_numbers
    from mlgraph.train.data.calibration import BATCHES, calibrate_on

    require_numbers(program)
    with status("calibrating"):
        return calibrate_on(data, program, source, batches or BATCHES, gradients)
