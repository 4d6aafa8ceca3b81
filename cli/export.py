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
            ".onnx or a directory (Hugging Face).",
            show_default=False,
        ),
    ],
    opening: Opening,
    json: Json = False,
) -> None:
    """Write a model's weights, its exported graph or a Hugging Face directory, by the ending of OUT."""
    from mlgraph.cli.results import status
    from mlgraph.inspect.text.comparison import outcome
    from mlgraph.inspect.text.console import show, show_json
    from mlgraph.interop.export import export

    program = opening.program(source)
    with status(f"writing {out}"):
        form = export(program, out)
    if json:
        show_json({"source": source, "out": str(out), "form": form, "parameters": program.num_parameters()})
    else:
        show(outcome(str(out), form, program.num_parameters()))
