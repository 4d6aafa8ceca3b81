"""A study as one HTML page with its pictures as PNG beside it: savings, losses, what was tuned, every run."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
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
from mlgraph.train.results.metrics import Record
from mlgraph.train.results.report import describe
from mlgraph.train.results.savings import Saving, saving
from mlgraph.train.sweep.folder import StudyFolder
from mlgraph.train.sweep.runs import TWINS, Outcomes, begun, best, reported
from mlgraph.train.sweep.study import Study
from mlgraph.train.sweep.table import StudyTable, interval, settings_text, tabulate

Histories = Mapping[str, Mapping[int, Sequence[Record]]]
"""Records of the final runs at full length, by arm and seed."""


@dataclass(frozen=True)
class StudyReport:
    """What was written of a study, and what it says.

    ``single`` holds, per arm and cost, what each seed saved against the one baseline run at full length; the
    table's own savings are against the curve of decayed baselines.
    """

    files: Sequence[Path]
    table: StudyTable
    single: Mapping[str, Mapping[str, Sequence[Saving]]]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        single = {
            arm: {cost: [one.share for one in savings] for cost, savings in costs.items()}
            for arm, costs in self.single.items()
        }
        return {**self.table.to_json(), "single": single, "files": [str(path) for path in self.files]}


def write_study(folder: StudyFolder, out: Path) -> StudyReport:
    """Write ``out``, a self-contained HTML page, and its pictures beside it.

    Raises ``TrainError`` where no run of the study has finished.
    """
    study, outcomes = folder.study(), folder.outcomes()
    if not outcomes:
        raise TrainError(f"{folder.path} has no finished run yet: let mlgraph sweep go on.")
    table = tabulate(study, outcomes)
    histories = _histories(study, folder, outcomes)
    single = _single(study, histories)
    pictures = _pictures(table, histories)
    files = [out]
    for name, (picture, _) in pictures.items():
        files.append(out.with_name(f"{out.stem}-{name}.png"))
        write_bytes(files[-1], picture)
    body = "\n".join(
        [
            f"<p>{html.escape(_introduction(study, table))}</p>",
            _arms(table, single),
            *(html_picture(picture, about) for picture, about in pictures.values()),
            "<h2>Every run</h2>",
            _runs(study, outcomes),
        ]
    )
    write_text(out, html_page(f"Study: {folder.path.name}", body))
    return StudyReport(files, table, single)


def _histories(study: Study, folder: StudyFolder, outcomes: Outcomes) -> Histories:
    found: dict[str, dict[int, list[Record]]] = {}
    for arm in study.arms:
        chosen = best(study, arm, outcomes)
        finals = [] if chosen is None else reported(study, chosen)
        found[arm] = {
            trial.seed: folder.history(trial)
            for trial in finals
            if trial.share == 1.0 and trial.name in outcomes
        }
    return found


def _single(study: Study, histories: Histories) -> dict[str, dict[str, list[Saving]]]:
    base = histories[study.baseline]
    found: dict[str, dict[str, list[Saving]]] = {}
    for arm, runs in histories.items():
        if arm == study.baseline:
            continue
        found[arm] = {
            cost: [
                one
                for seed, history in runs.items()
                if seed in base and (one := saving(base[seed], history, cost)) is not None
            ]
            for cost in COSTS
        }
    return found


def _introduction(study: Study, table: StudyTable) -> str:
    tuned = sum(arm.tuning_runs for arm in table.arms)
    missing = f" {table.missing} final runs are missing." if table.missing else ""
    foretold = f" Foretold: {study.prediction.strip()}" if study.prediction.strip() else ""
    return (
        f"{len(table.arms)} arms, {tuned} tuning runs, seeds {', '.join(map(str, study.seeds))}. Savings are "
        "read at equal loss: against the curve of the tuned baseline's decayed ends, and beside it against "
        f"the baseline's one run at full length.{missing}{foretold}"
    )


def _arms(table: StudyTable, single: Mapping[str, Mapping[str, Sequence[Saving]]]) -> str:
    headers = ["arm", "tuning runs", "settings", "loss by seed", "mean", "twins", "TFLOPs"]
    headers += ["FLOPs saved, curve", "95%", "single run", "time saved, curve", "single run"]
    rows = []
    for arm in table.arms:
        runs = list(arm.runs.values())
        twins = [run.metrics[TWINS] for run in runs if TWINS in run.metrics]
        against = single.get(arm.name, {})
        saved = [
            arm.summary("flops"),
            interval(arm.saved.get("flops", ())),
            describe(against["flops"]) if against.get("flops") else "",
            arm.summary("seconds"),
            describe(against["seconds"]) if against.get("seconds") else "",
        ]
        rows.append(
            [
                arm.name,
                str(arm.tuning_runs),
                settings_text(arm.settings) if arm.settings is not None else "still searched",
                " ".join(f"{run.loss:.4f}" for run in runs),
                f"{mean(run.loss for run in runs):.4f}" if runs else "",
                f"{mean(twins):.1%}" if twins else "",
                f"{mean(run.flops for run in runs) / 1e12:.4g}" if runs else "",
                *(["baseline", *[""] * 4] if arm.baseline else saved),
            ]
        )
    return html_table(headers, rows)


def _pictures(table: StudyTable, histories: Histories) -> dict[str, tuple[bytes, str]]:
    """By name, a picture and what it shows."""
    found = {}
    for cost, words in COSTS.items():
        found[f"ends-{cost}"] = _ends(table, cost), f"final losses against {words}"
        if any(histories.values()):
            found[f"courses-{cost}"] = _courses(histories, cost), f"loss in the course of {words}"
    if any(table.sensitivity.values()):
        found["sensitivity"] = _sensitivity(table), "lowest loss by the value of each tuned field"
    return found


def _ends(table: StudyTable, cost: str) -> bytes:
    """Ends of decayed runs: the baseline's curve through the means of its seeds, and every arm's runs."""
    drawn = figure()
    axes = drawn.subplots()
    points = [(getattr(run, cost), run.loss) for point in table.curve for run in point.runs.values()]
    if points:
        axes.plot(*zip(*points, strict=True), "o", color="#666666", markersize=3)
        means = [
            (
                mean(getattr(run, cost) for run in point.runs.values()),
                mean(r.loss for r in point.runs.values()),
            )
            for point in table.curve
        ]
        axes.plot(*zip(*means, strict=True), "-", color="#666666", label="baseline, decayed ends")
    for number, arm in enumerate(table.arms):
        ends = [(getattr(run, cost), run.loss) for run in arm.runs.values() if math.isfinite(run.loss)]
        if ends and not arm.baseline:
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(*zip(*ends, strict=True), "D", color=colour, markersize=5, label=arm.name)
    label(axes, cost)
    return png(drawn)


def _courses(histories: Histories, cost: str) -> bytes:
    """Evaluations in the course of the first seed's final runs; dashes at coarser levels."""
    drawn = figure()
    axes = drawn.subplots()
    for number, (arm, runs) in enumerate(histories.items()):
        for history in list(runs.values())[:1]:
            draw_course(axes, arm, history, cost, COLOURS[number % len(COLOURS)])
    label(axes, cost)
    return png(drawn)


def _sensitivity(table: StudyTable) -> bytes:
    """One small picture per tuned field: the lowest loss at each value, a line per arm."""
    fields = list(dict.fromkeys(name for found in table.sensitivity.values() for name in found))
    columns = min(3, len(fields))
    lines = math.ceil(len(fields) / columns)
    drawn = figure(3.2 * columns, 2.6 * lines)
    grid = drawn.subplots(lines, columns, squeeze=False)
    for place, name in enumerate(fields):
        axes = grid[place // columns][place % columns]
        values = list(
            dict.fromkeys(
                str(value) for found in table.sensitivity.values() for value, _ in found.get(name, ())
            )
        )
        for number, found in enumerate(table.sensitivity.values()):
            points = [(str(value), loss) for value, loss in found.get(name, ()) if math.isfinite(loss)]
            if points:
                at = [values.index(value) for value, _ in points]
                losses = [loss for _, loss in points]
                axes.plot(at, losses, "o-", color=COLOURS[number % len(COLOURS)], markersize=3)
        axes.set_xticks(range(len(values)), values, fontsize=6, rotation=30, ha="right")
        axes.set_title(name, fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for place in range(len(fields), lines * columns):
        grid[place // columns][place % columns].set_axis_off()
    for number, arm in enumerate(table.sensitivity):
        grid[0][0].plot([], [], "o-", color=COLOURS[number % len(COLOURS)], markersize=3, label=arm)
    grid[0][0].legend(frameon=False, fontsize=7)
    return png(drawn)


def _runs(study: Study, outcomes: Outcomes) -> str:
    """Every finished run by the name of its folder, so that each number can be traced."""
    rows = []
    for trial in begun(study, outcomes):
        if trial.name in outcomes:
            found = outcomes[trial.name]
            shown = f"{found.loss:.4f}" if math.isfinite(found.loss) else "diverged"
            cells = [trial.name, settings_text(trial.settings), f"{trial.share:g}", str(trial.seed), shown]
            rows.append([*cells, f"{found.flops / 1e12:.4g}", f"{found.seconds:,.0f}"])
    return html_table(["run", "settings", "length", "seed", "loss", "TFLOPs", "seconds"], rows)
