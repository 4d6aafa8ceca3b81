"""Runs compared: loss against FLOPs and time as pictures, and one self-contained HTML page."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mlgraph.files import write_bytes, write_text
from mlgraph.train.errors import TrainError
from mlgraph.train.results.drawing import (
    COLOURS,
    COSTS,
    draw_course,
    figure,
    html_page,
    html_picture,
    html_table,
    label,
    png,
)
from mlgraph.train.results.metrics import Record, read_metrics
from mlgraph.train.results.savings import Saving, curve, saving, spread


@dataclass(frozen=True)
class Run:
    """A run directory as read: its configuration and metrics."""

    name: str
    config: Mapping[str, Any]
    history: Sequence[Record]

    @property
    def seed(self) -> Any:
        """The seed, as the run was told."""
        return self.config.get("run", {}).get("seed")

    @property
    def recipe(self) -> str:
        """What runs share that differ in their seed alone."""
        run = {key: value for key, value in self.config.get("run", {}).items() if key != "seed"}
        own = {key: value for key, value in self.config.items() if key != "out"}
        return json.dumps({**own, "run": run}, sort_keys=True)

    @property
    def subject(self) -> str:
        """Task, data and model class: what runs share whose losses can be compared."""
        data = self.config.get("data", {})
        fields = ("task", "train", "eval", "eval_share", "tokenizer", "sequence")
        compared = {key: data.get(key) for key in fields}
        model = self.config.get("run", {}).get("model", {}).get("name")
        return json.dumps({**compared, "model": model}, sort_keys=True)

    @property
    def is_evaluated(self) -> bool:
        """Whether it was evaluated at level 1."""
        return bool(curve(self.history, "flops"))

    @property
    def is_plain(self) -> bool:
        """Whether nothing but training happens in it."""
        return all(phase["phase"] == "train" for phase in self.config.get("run", {}).get("phases", ()))


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run directory; ``TrainError`` where it is none."""
    folder = Path(path)
    try:
        config = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise TrainError(f"{folder} is no run directory: name one that `mlgraph train` made.") from error
    return Run(folder.name, config, read_metrics(folder / "metrics.jsonl"))


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe against the baseline: the runs, and their savings per cost."""

    name: str
    runs: Sequence[Run]
    savings: Mapping[str, Sequence[Saving]]


def compare(runs: Sequence[Run], baseline: Sequence[Run]) -> list[RecipeComparison]:
    """Every recipe against the baseline's run of the same seed, or its first where there is none.

    Runs are compared with a baseline of their own task, data and model class alone.
    """
    others = [run for run in runs if run not in baseline]
    found = []
    for _, group in groupby(sorted(others, key=lambda run: run.recipe), key=lambda run: run.recipe):
        members = list(group)
        own = [run for run in baseline if run.subject == members[0].subject]
        if not own:
            continue
        of_seed = {run.seed: run for run in reversed(own)}
        pairs = [(of_seed.get(run.seed, own[0]), run) for run in members]
        savings = {
            cost: [s for base, run in pairs if (s := saving(base.history, run.history, cost)) is not None]
            for cost in COSTS
        }
        found.append(RecipeComparison(members[0].name, members, savings))
    return sorted(found, key=lambda comparison: comparison.name)


def choose_baseline(runs: Sequence[Run], name: str | None) -> list[Run]:
    """The runs to compare with: those with the recipe of the run ``name``, else of the best plain run of each
    task, data and model class.
    """
    if name is not None:
        named = [run for run in runs if run.name == name]
        if not named:
            raise TrainError(
                f"There is no run {name!r} to compare with: choose {', '.join(r.name for r in runs)}."
            )
        return [run for run in runs if run.recipe == named[0].recipe]
    chosen = []
    for subject in dict.fromkeys(run.subject for run in runs):
        plain = [run for run in runs if run.is_plain and run.subject == subject]
        if plain:
            best = min(plain, key=lambda run: curve(run.history, "flops")[-1][1])
            chosen += [run for run in plain if run.recipe == best.recipe]
    return chosen


@dataclass(frozen=True)
class Report:
    """What was written and what it says: files, the runs compared with, and every other recipe's savings."""

    files: Sequence[Path]
    baseline: Sequence[Run]
    comparisons: Sequence[RecipeComparison]
    notes: Sequence[str] = ()


def write_report(given: Sequence[Run], out: Path, baseline: str | None = None) -> Report:
    """Write ``out``, a self-contained HTML page, and the pictures beside it as PNG.

    Runs without an evaluation at level 1 are left out, which the notes of the result say, and runs that
    differ in task, data or model class are compared apart. Raises ``TrainError`` where no run is left.
    """
    runs = [run for run in given if run.is_evaluated]
    if not runs:
        raise TrainError(
            f"{given[0].name if given else 'No run'} has no evaluation at level 1 yet: let it run on, with "
            "evaluation data."
        )
    base = choose_baseline(runs, baseline)
    notes = _notes(given, runs, base)
    comparisons = compare(runs, base) if base else []
    pictures = {cost: plot(runs, cost, base) for cost in COSTS}
    files = []
    for cost, picture in pictures.items():
        path = out.with_name(f"{out.stem}-{cost}.png")
        write_bytes(path, picture)
        files.append(path)
    write_text(out, page(runs, base, comparisons, pictures))
    return Report([out, *files], base, comparisons, notes)


def _notes(given: Sequence[Run], runs: Sequence[Run], baseline: Sequence[Run]) -> list[str]:
    left = [run.name for run in given if run not in runs]
    notes = [f"{name} is left out: it has no evaluation at level 1 yet" for name in left]
    groups = [[run for run in runs if run.subject == s] for s in dict.fromkeys(run.subject for run in runs)]
    if len(groups) > 1:
        named = "; ".join(", ".join(run.name for run in group) for group in groups)
        notes.append(f"compared apart, since task, data or model class differ: {named}")
    compared = {run.subject for run in baseline}
    for group in groups:
        if baseline and group[0].subject not in compared:
            names = ", ".join(run.name for run in group)
            notes.append(f"{names}: there is no run from scratch to compare with")
    return notes


def plot(runs: Sequence[Run], cost: str, baseline: Sequence[Run]) -> bytes:
    """A PNG of evaluation loss against ``cost``: lines at level 1, dashes below, the first cycle shaded."""
    drawn = figure()
    axes = drawn.subplots()
    shaded = next((run for run in runs if not run.is_plain), None)
    if shaded is not None:
        _shade(axes, shaded, cost)
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        draw_course(axes, run.name, run.history, cost, colour)
    if baseline:
        axes.axhline(curve(baseline[0].history, cost)[-1][1], color="#999999", linewidth=0.8, zorder=1)
    label(axes, cost)
    return png(drawn)


def _shade(axes: Any, run: Run, cost: str) -> None:
    """Grey the costs spent below level 1."""
    measured = [record for record in run.history if cost in record and "level" in record]
    start = 0.0
    for level, group in groupby(measured, key=lambda record: record["level"]):
        end = float(list(group)[-1][cost])
        if level != 1:
            axes.axvspan(
                start, end, color="#000000", alpha=0.04 * min(abs(level - 1), 4), linewidth=0, zorder=0
            )
        start = end


def page(
    runs: Sequence[Run],
    baseline: Sequence[Run],
    comparisons: Sequence[RecipeComparison],
    pictures: Mapping[str, bytes],
) -> str:
    """The HTML page, pictures inside."""
    names = ", ".join(run.name for run in baseline)
    intro = (
        f"Savings are read off at the final validation loss of <b>{html.escape(names)}</b>, as the "
        "cost at which a run "
        "first came down to it at level 1. They mean something only where both sides had their "
        "learning rates tuned alike."
        if baseline
        else "No run here trains from scratch, so no saving can be read off."
    )
    figures = [html_picture(p, f"evaluation loss against {COSTS[cost]}") for cost, p in pictures.items()]
    parts = [f"<p>{intro}</p>", _savings(comparisons), _runs(runs), *figures, f"<p>{_LEGEND}</p>"]
    return html_page("Training runs", "\n".join(parts))


_LEGEND = (
    "Lines: evaluations at level 1; dashes: at coarser levels; shaded: cost spent at coarser levels of the "
    "first run that has any; the grey line is the loss at which savings are read off."
)


def _savings(comparisons: Sequence[RecipeComparison]) -> str:
    if not comparisons:
        return ""
    rows = [
        [comparison.name, str(len(comparison.runs)), *(describe(comparison.savings[cost]) for cost in COSTS)]
        for comparison in comparisons
    ]
    return html_table(["recipe", "runs", "FLOPs saved", "time saved"], rows)


def describe(savings: Iterable[Saving]) -> str:
    """Savings in words: the share, its spread over seeds, and how many runs never got there."""
    found = spread(savings)
    if found.mean is None:
        return "never reached"
    text = f"{found.mean:+.1%}" + ("" if found.deviation is None else f" ± {found.deviation:.1%}")
    return text + (f" ({found.missing} never reached)" if found.missing else "")


def _runs(runs: Sequence[Run]) -> str:
    columns: list[tuple[str, Callable[[Record], str]]] = [
        ("evaluation loss", lambda record: f"{record['eval_loss']:.4f}"),
        ("steps", lambda record: f"{record['step']:,}"),
        ("FLOPs", lambda record: f"{record['flops']:.3g}"),
        ("tokens or samples", lambda record: f"{record['tokens']:,}"),
        ("seconds", lambda record: f"{record['seconds']:,.0f}"),
    ]
    rows = []
    for run in runs:
        last = [r for r in run.history if "eval_loss" in r and r["level"] == 1][-1]
        rows.append([run.name, *(show(last) for _, show in columns)])
    return html_table(["run", *(name for name, _ in columns)], rows)
