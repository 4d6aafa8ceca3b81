"""Pages that are made from code: the start from README, every verb's help, every field of a configuration."""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.structure.files import File, Files

from mlgraph.cli.app import build_app
from mlgraph.cli.verbs import VERBS
from mlgraph.passes.options import reference
from mlgraph.train.config import Config

ROOT = Path(__file__).resolve().parents[2]


def on_startup(**_: Any) -> None:
    """Show the reader of the reference the package as it installs, ``passes`` and ``cli`` inside."""
    tree = Path(tempfile.mkdtemp(prefix="mlgraph-docs-"))
    for source, place in (("mlgraph", ""), ("passes", "passes"), ("cli", "cli")):
        shutil.copytree(ROOT / source, tree / "mlgraph" / place, dirs_exist_ok=True)
    sys.path.insert(0, str(tree))
    atexit.register(shutil.rmtree, tree)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    made = {"index.md": start(), "reference/commands.md": commands(), "reference/fields.md": fields()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def start() -> str:
    """README, with links as they are from inside ``docs``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return (
        text.replace("](docs/", "](")
        .replace("[examples/](examples)", "`examples/`")
        .replace("[examples/studies](examples/studies)", "`examples/studies`")
    )


def commands() -> str:
    """Every verb with its arguments and options, read from the functions that run them."""
    names = [verb.name for verb in VERBS]
    group = typer.main.get_command(build_app(names))
    parts = ["# Command line\n"]
    for verb in VERBS:
        command = group.commands[verb.name]  # type: ignore[attr-defined]
        parts.append(f"## mlgraph {verb.name}\n\n{(command.help or '').strip()}\n")
        rows = [f"| {name} | {text} |" for name, text in _parameters(command)]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _parameters(command: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        options = ", ".join(f"`{name}`" for name in parameter.opts)
        argument = f"`{parameter.metavar or parameter.name}`"
        shown = options if parameter.param_type_name == "option" else argument
        meaning = " ".join((getattr(parameter, "help", "") or "").split())
        default = parameter.default
        if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
            meaning += f" Default: `{default}`."
        yield shown, meaning.replace("|", "\\|").replace("\\\\|", "\\|")


def fields() -> str:
    """Every field that ``mlgraph train`` reads."""
    rows = [
        f"| `{f.name}` | {f.type} | {'required' if f.default is None else f'`{f.default}`'} | {f.help} |"
        for f in map(_escaped, reference(Config))
    ]
    head = "# Configuration fields\n\nWhat the TOML file of `mlgraph train` may say.\n\n"
    return head + "| field | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _escaped(found: Any) -> Any:
    return dataclasses.replace(found, help=found.help.replace("|", "\\|"))
