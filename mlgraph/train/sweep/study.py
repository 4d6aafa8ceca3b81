"""A study as a TOML file describes it."""

from __future__ import annotations

import copy
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlgraph.passes.options import option, required
from mlgraph.train.config import Config
from mlgraph.train.errors import TrainError
from mlgraph.train.tables import build

STEPS = ("recipe.steps", "recipe.init_steps", "recipe.coarse_steps", "recipe.stage_steps")
"""Fields that count steps of the phase program."""
PACE = ("run.schedule.warmup", "run.schedule.rewarm", "run.eval_every", "run.log_every")
"""Fields that count steps and shrink with a run, so that a shorter run has the same shape."""


@dataclass(frozen=True)
class Search:
    """How every arm is tuned: successive halving over run length (Jamieson and Talwalkar, AISTATS 2016).

    Every rung is run to its own fully decayed end; no run is judged in the middle.
    """

    trials: int = option(16, "settings drawn for each arm, out of the product of what it tunes")
    rungs: tuple[float, ...] = option((0.25, 0.5, 1.0), "lengths of runs, as shares of the full one")
    keep: float = option(0.5, "share of the settings that go on to the next rung")
    seed: int = option(0, "seeds the draw of settings; runs of the search take the first of study.seeds")

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise TrainError(f"search.trials is {self.trials}: give at least 1.")
        if not self.rungs or any(not 0.0 < share <= 1.0 for share in self.rungs):
            raise TrainError(f"search.rungs is {list(self.rungs)}: give shares above 0 and up to 1.")
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1.0:
            raise TrainError("search.rungs has to rise, and to end at 1, the full length.")
        if not 0.0 < self.keep < 1.0:
            raise TrainError(f"search.keep is {self.keep}: give a share between 0 and 1.")

    def survivors(self, rung: int, trials: int) -> int:
        """How many of ``trials`` settings run at a rung, counted from 0."""
        return max(1, math.ceil(trials * self.keep**rung))


@dataclass(frozen=True)
class Arm:
    """One side of the comparison: fields that are set, and fields that are tuned, by dotted name."""

    set: dict[str, Any] | None = option(
        None, "fields of the base configuration by dotted name, with their values"
    )
    tune: dict[str, Any] | None = option(None, "fields by dotted name, each with the list of values to try")
    baseline: bool = option(False, "whether the others are compared with this one")


@dataclass(frozen=True)
class Study:
    """What ``mlgraph sweep`` reads: a base configuration, arms, seeds and how they are tuned."""

    out: str = required("the folder of the study; the same command goes on with what is there")
    base: dict[str, Any] = required("a configuration as mlgraph train takes it, without out")
    arms: dict[str, Any] = required("the arms, one of them with baseline = true")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of the final runs")
    curve: tuple[float, ...] = option(
        (0.5, 0.625, 0.75, 0.875, 1.0),
        "lengths at which the tuned baseline is run to a decayed end; above 1 where an arm costs more",
    )
    report_eval: tuple[str, ...] = option(
        (), "evaluation data of the final runs, which no choice was made on; none: that of the search"
    )
    search: Search = option(Search(), "how settings are found")
    prediction: str = option("", "what is expected, written down before the runs")

    def __post_init__(self) -> None:
        if not self.seeds:
            raise TrainError("seeds is empty: give at least one.")
        if any(not 0.0 < share <= 2.0 for share in self.curve):
            raise TrainError(f"curve is {list(self.curve)}: give shares above 0 and up to 2.")
        if "out" in self.base:
            raise TrainError("base.out is the study's to choose: leave it out.")
        arms = self.every_arm
        if sum(arm.baseline for arm in arms.values()) != 1:
            raise TrainError("A study has one baseline: set baseline = true in one of its arms.")
        for name in arms:
            for settings in (next(self.settings(name)), {}):
                self.config(name, settings, 1.0, self.seeds[0], Path(self.out), final=True)

    @property
    def every_arm(self) -> dict[str, Arm]:
        """The arms by name."""
        return {name: build(Arm, table, f"arms.{name}") for name, table in self.arms.items()}

    @property
    def baseline(self) -> str:
        """The name of the arm that the others are compared with."""
        return next(name for name, arm in self.every_arm.items() if arm.baseline)

    def settings(self, arm: str) -> Iterator[dict[str, Any]]:
        """The settings of an arm that the search tries: a draw without repetition, the same every time."""
        tuned = self.every_arm[arm].tune or {}
        for name, values in tuned.items():
            if not isinstance(values, list | tuple) or not values:
                raise TrainError(f"arms.{arm}.tune has {name} = {values!r}: give the list of values to try.")
        sizes = [len(values) for values in tuned.values()]
        product = math.prod(sizes)
        for place in _drawn(product, min(self.search.trials, product), f"{self.search.seed} {arm}"):
            chosen = {}
            for name, values in tuned.items():
                place, index = divmod(place, len(values))
                chosen[name] = values[index]
            yield chosen

    def config(
        self, arm: str, settings: Mapping[str, Any], share: float, seed: int, out: Path, final: bool
    ) -> Config:
        """The configuration of one run of a ``share`` of the full length; if ``final``, for the report."""
        table = copy.deepcopy(self.base)
        for name, value in {**(self.every_arm[arm].set or {}), **settings}.items():
            _place(table, name, value)
        _place(table, "out", str(out))
        _place(table, "run.seed", seed)
        if final and self.report_eval:
            _place(table, "data.eval", list(self.report_eval))
        if share != 1.0:
            table["recipe"] = table.get("recipe", {})
            _shorten(table, share)
        try:
            return build(Config, table)
        except TrainError as error:
            raise TrainError(f"arms.{arm}: {error}") from error


def load_study(path: Path) -> Study:
    """The study in a TOML file. Raises ``TrainError`` naming the file and the field that is wrong."""
    try:
        return build(Study, tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TrainError(f"There is no file {path}: check the path.") from error
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read: {error}.") from error
    except TrainError as error:
        raise TrainError(f"{path}: {error}") from error


def _drawn(product: int, count: int, seed: str) -> list[int]:
    import random

    return random.Random(seed).sample(range(product), count)


def _place(table: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        table = table.setdefault(section, {})
    table[last] = copy.deepcopy(value)


def _shorten(table: dict[str, Any], share: float) -> None:
    """Make a run shorter: every count of steps that the table holds, so that its shape stays."""
    plain = build(Config, table).to_json()
    for name in (*STEPS, *PACE):
        value: Any = plain
        for section in name.split("."):
            value = value[section]
        if isinstance(value, (list, tuple)):
            _place(table, name, [max(round(v * share), 1) if v else 0 for v in value])
        elif value:
            _place(table, name, max(round(value * share), 1))
