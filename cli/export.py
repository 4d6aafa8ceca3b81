"""``mlgraph export``: a program in a format that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlgraph.cli.opening import Opening, opens
from mlgraph.cli.options import Json, Source


@opens
def command(
    source: Source,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Where to write: .safetensors, .pt2 (torch.export), .pth (state dict), .gguf (llama.cpp), "
            ".onnx, .pt (a program) or a directory (Hugging Face).",
            show_default=False,
        ),
    ],
    opening: Opening,
    json: Json = False,
) -> None:
    """Write a model's weights, its exported graph or a Hugging Face directory, by the ending of OUT.

    SOURCE may be a run directory, whose newest checkpoint is written, or one of its checkpoints.
    """
    from mlgraph.cli.results import require_apart, status, write_program
    from mlgraph.inspect.text.comparison import outcome
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.interop.export import export, require_ending

    require_apart(out, source)
    if out.suffix != ".pt":
        require_ending(out)
    from mlgraph.train.results.saved import is_saved_run, saved_program

    if is_saved_run(Path(source)):
        program = saved_program(Path(source), opening.program)
    else:
        program = opening.program(source)
    with status(f"writing {out}"):
        form = write_program(program, out).form if out.suffix == ".pt" else export(program, out)
    if json:
        show_json({"source": source, "out": str(out), "form": form, "parameters": program.num_parameters()})
    else:
        show(outcome(str(out), form, program.num_parameters()))
