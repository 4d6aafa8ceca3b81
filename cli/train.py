"""``mlgraph train``: a run as a TOML file describes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlgraph.cli.options import DryRun, Json

if TYPE_CHECKING:
    from mlgraph.program import Program


def command(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A TOML file.", show_default=False)
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Replace a field, as data.batch=8; repeatable."),
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="List every field of CONFIG and exit.")] = False,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="TASK",
            help="Write a first run to change and exit: CONFIG, run.toml by default, config.json and data. "
            "TASK is causal-lm, masked-lm or image-classification.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            help="With --dry-run: the number of processes to tell of; by default as started.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="With --dry-run: what each process has, as 80GB; by default this device's.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a model by a phase program: a V-cycle or another cycle, or from scratch.

    Stopped at any moment, the same command goes on; Ctrl-C writes a checkpoint first. --dry-run tells
    what a run will take: memory of each process, FLOPs, time. For example:
    mlgraph train --init causal-lm, then mlgraph train run.toml
    """
    from mlgraph.cli.render import training as render
    from mlgraph.inspect.text.comparison import notes
    from mlgraph.inspect.text.console import show, show_json

    if fields:
        from mlgraph.passes.options import reference
        from mlgraph.train.config import Config

        listed = list(reference(Config))
        show_json(render.fields_json(listed)) if json else show(*render.fields(listed))
        return
    if init is not None:
        from mlgraph.train.starter import write_starter

        path = config or Path("run.toml")
        files = [str(file) for file in write_starter(init, path)]
        told = f"wrote {', '.join(files)}", f"mlgraph train {path} runs it as it stands"
        show_json({"files": files}) if json else show(*told)
        return
    if config is None:
        raise typer.BadParameter(
            "name a TOML file, give --init TASK to write one, or --fields to see what it may say"
        )
    if not dry_run and (processes is not None or memory is not None):
        raise typer.BadParameter("--processes and --memory go with --dry-run")
    from mlgraph.cli.opening import open_program
    from mlgraph.cli.results import is_huggingface, status, write_program
    from mlgraph.train.config import load_config

    loaded = load_config(config, change or ())
    loaded.refuse_early()
    from mlgraph.train.launch import TOKENIZER, launch

    def opened(source: str, **how: Any) -> Program:
        program = open_program(source, **how)
        for note in program.notes:
            if note.kind == "weights":
                print(f"{source}: {note}", file=sys.stderr)
        return program

    if dry_run:
        from mlgraph.rewrite.targets import amount_of
        from mlgraph.train.launch import dry_run as forecast

        with status("measuring steps"):
            given = None if memory is None else int(amount_of(memory))
            found = forecast(loaded, opened, processes, given)
        show_json(render.forecast_json(found)) if json else show(*render.forecast(found))
        return
    result, main = launch(loaded, opened, progress=not json)
    if not main:
        return
    out = Path(loaded.out)
    tokenizer = out / TOKENIZER if (out / TOKENIZER).exists() else None
    name = "model" if is_huggingface(result.program) else "model.pt"
    written = write_program(result.program, out / name, tokenizer=tokenizer, or_program=True)
    if json:
        show_json({**render.summary_json(result, written.path), "notes": list(written.notes)})
    else:
        show(*render.summary(result, written.path), *notes(written.notes))
