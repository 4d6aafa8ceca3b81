"""A training run from a TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from mlgraph.passes.options import option, required, table_of
from mlgraph.train.engine.same_run import refuse_other
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Phase, Train, from_json
from mlgraph.train.phases import to_json as phases_json
from mlgraph.train.recipes import Recipe
from mlgraph.train.settings import Settings
from mlgraph.train.tables import build

Task = Literal[
    "causal-lm",
    "masked-lm",
    "seq2seq",
    "text-classification",
    "token-classification",
    "image-classification",
]


@dataclass(frozen=True)
class Data:
    """What a run trains on."""

    task: Task = required("what is learned")
    train: tuple[str, ...] = required(
        "files and folders: text, jsonl, parquet, save_to_disk, images by class, idx"
    )
    eval: tuple[str, ...] = option((), "the same for evaluation; none: eval_share of the training data")
    eval_share: float = option(0.05, "share of the training data kept for evaluation where eval is not given")
    batch: int = option(16, "samples per batch and process")
    eval_batch: int = option(64, "samples per evaluation batch and process")
    workers: int = option(0, "processes that load data")
    field: str = option("text", "the column of jsonl, parquet and save_to_disk data that holds the text")
    tokenizer: str | None = option(None, "tokenizer.json, its folder, or bpe:SIZE; nothing: beside the model")
    sequence: int = option(128, "tokens per sample")
    label: str = option("label", "the column that holds the class, or the list of classes of a list of words")
    target: str | None = option(
        None, "seq2seq: the column with the text to be written; nothing: spans taken out of plain text"
    )
    mask_rate: float = option(0.15, "share of tokens that masked-lm and seq2seq take out")
    span: float = option(3.0, "tokens in a span that seq2seq takes out, on average")
    image_size: int = option(224, "height and width of images")
    channels: int = option(3, "1 for grey images, 3 for colour")
    flip: bool = option(False, "mirror training images at random")

    def __post_init__(self) -> None:
        if not self.train:
            raise TrainError("data.train is empty: name at least one file or folder.")
        for name, least in (
            ("batch", 1),
            ("eval_batch", 1),
            ("workers", 0),
            ("sequence", 2),
            ("image_size", 1),
        ):
            if getattr(self, name) < least:
                raise TrainError(f"data.{name} is {getattr(self, name)}: give at least {least}.")
        if self.span < 1:
            raise TrainError(f"data.span is {self.span}: give at least 1.")
        if self.channels not in (1, 3):
            raise TrainError(f"data.channels is {self.channels}: give 1 for grey images or 3 for colour.")
        for name in ("eval_share", "mask_rate"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise TrainError(f"data.{name} is {getattr(self, name)}: give a share between 0 and 1.")


_RECIPE, _SETTINGS = Recipe(), Settings()


EVALUATIONS = 20
"""Evaluations of a run whose configuration does not say how many steps lie between two."""


@dataclass(frozen=True)
class Config:
    """Everything that ``mlgraph train`` reads from its file."""

    model: str = required(
        "SOURCE: a saved program, a Hugging Face folder, timm:NAME,key=value or hf:CONFIG.json"
    )
    out: str = required("the run directory; the same command goes on with a run that was stopped")
    data: Data = required("the data section")
    model_class: str | None = option(
        None, "transformers class to load; nothing: the model's own, or with the head that the task needs"
    )
    trust: bool = option(False, "load models that run code on loading")
    recipe: Recipe = option(_RECIPE, "the phase program, by builder")
    phases: tuple[dict[str, Any], ...] = option((), "the phase program as a list of tables with a key phase")
    run: Settings = option(_SETTINGS, "optimizer, schedule and everything else")

    def phase_program(self) -> list[Phase]:
        """The phases listed, or those of the recipe."""
        return from_json(self.phases) if self.phases else self.recipe.phases()

    def settings(self) -> Settings:
        """The run's settings, with ``EVALUATIONS`` in all where none are asked for."""
        if self.run.eval_every:
            return self.run
        steps = sum(phase.steps for phase in self.phase_program() if isinstance(phase, Train))
        return replace(self.run, eval_every=max(steps // EVALUATIONS, 1))

    def refuse_early(self) -> None:
        """Raise ``TrainError`` for what can be told before anything is loaded.

        That are files that are not there, and a run directory of another run.
        """
        for name in (*self.data.train, *self.data.eval):
            if not Path(name).exists():
                raise TrainError(f"There is no file {name}: check the path in the data section.")
        known = Path(self.out) / "run.json"
        if known.exists():
            run = {"phases": phases_json(self.phase_program()), **self.settings().to_json()}
            asked = json.loads(json.dumps({**self.to_json(), "run": run}))
            refuse_other(known, asked, json.loads(json.dumps(known_defaults())))

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain values, for the run's description."""
        return table_of(self, whole=True)


def known_defaults() -> dict[str, dict[str, Any]]:
    """The defaults of every section: what options that came later stand at in runs of earlier versions."""
    data = {entry.name: entry.default for entry in fields(Data) if entry.default is not MISSING}
    return {"data": data, "recipe": table_of(Recipe(), whole=True), "run": Settings().to_json()}


def load_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """The configuration in a TOML file. ``changes`` like ``data.batch=8`` replace single fields.

    Raises ``TrainError`` naming the file, and the unknown or misfit field with the nearest right one.
    """
    with _file_errors(path):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for change in changes:
            _replace(table, change)
        return build(Config, table)


def load_data_section(path: Path) -> Data:
    """The section ``data`` of a TOML file, all else of which is left alone.

    Raises ``TrainError`` as :func:`load_config` does.
    """
    with _file_errors(path):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table.get("data"), dict):
            raise TrainError("there is no section data: say there what is learned and from which files.")
        return build(Data, table["data"])


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise TrainError(f"There is no file {path}: check the path.") from error
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read: {error}.") from error
    except TrainError as error:
        raise TrainError(f"{path}: {error}") from error


def _replace(table: dict[str, Any], change: str) -> None:
    name, equals, value = change.partition("=")
    if not equals:
        raise TrainError(f"{change!r} changes no field: write NAME=VALUE, as data.batch=8.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, last = name.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise TrainError(f"{change!r} changes no field: {section!r} is no section.")
    table[last] = parsed
