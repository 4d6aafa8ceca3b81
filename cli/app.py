"""The command line as a whole: finds the verb, runs it, and turns errors into sentences and exit codes.

Exit codes: 0 done; 1 the request cannot be met, with one sentence on standard error; 2 wrong usage.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import mlgraph
from mlgraph.cli.verbs import VERBS, Verb
from mlgraph.errors import MlgraphError, first_line

_DEBUG = "--debug"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (those of the process by default); its exit code.

    ``--debug``, anywhere, lets errors through with their tracebacks.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    given = [argument for argument in given if argument != _DEBUG]
    if not debug:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        build_app(given)(args=given, prog_name="mlgraph")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except MlgraphError as error:
        if debug:
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone; nothing may be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        return _fail(
            f"An error inside mlgraph ({type(error).__name__}: {first_line(error)}); "
            f"run again with {_DEBUG} for the traceback and report it."
        )
    finally:
        logging.disable(logging.NOTSET)
    return 0


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The application, in which only the verbs that ``arguments`` mention are imported."""
    app = typer.Typer(
        help="Shrink, train and regrow any PyTorch transformer.",
        epilog="SOURCE is a file mlgraph saved, a Hugging Face directory, timm:NAME,key=value, "
        "hf:CONFIG.json (random weights) or, with --trust, a .pt2 or a pickled module.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    mentioned = {*arguments, *_completed()}
    for verb in VERBS:
        function = _load(verb) if verb.name in mentioned else _listed(verb)
        app.command(verb.name, rich_help_panel=verb.panel, short_help=verb.summary, no_args_is_help=False)(
            function
        )
    return app


def _completed() -> list[str]:
    """The words that a shell wants completed, where it is a shell that asks."""
    return f"{os.environ.get('COMP_WORDS', '')} {os.environ.get('_TYPER_COMPLETE_ARGS', '')}".split()


def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, help="Print the version and exit.", callback=lambda on: _version(on)
        ),
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show tracebacks; works after a verb too.")] = False,
) -> None:
    pass


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlgraph {mlgraph.__version__}")
        raise typer.Exit


def _load(verb: Verb) -> Callable[..., Any]:
    function: Callable[..., Any] = importlib.import_module(verb.location).command
    return function


def _listed(verb: Verb) -> Callable[..., Any]:
    def command() -> None:
        raise AssertionError(f"{verb.name} is listed, not loaded")

    command.__doc__ = verb.summary
    return command


def _fail(sentence: str) -> int:
    line = " ".join(sentence.split()).rstrip(".")
    print(f"mlgraph: {line}{'' if line.endswith('?') else '.'}", file=sys.stderr)
    return 1
