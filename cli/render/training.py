"""Finished runs and the reference of configuration fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from mlgraph.inspect.text.console import table

if TYPE_CHECKING:
    from mlgraph.passes.options import FieldHelp
    from mlgraph.train.engine.engine import Result
    from mlgraph.train.engine.forecast import Forecast
    from mlgraph.train.results.report import RecipeComparison, Report
    from mlgraph.train.sweep.table import StudyTable


def fields(listed: Sequence[FieldHelp]) -> list[Any]:
    """The reference: a line with name, type and default of every field, and what it is below."""
    lines: list[Any] = []
    for field in listed:
        default = "required" if field.default is None else field.default
        head = Text(field.name, style="bold").append(f"  {field.type}: {default}", style="not bold")
        lines += [head, Padding(Text(field.help), (0, 0, 0, 4))]
    return lines


def fields_json(listed: Sequence[FieldHelp]) -> list[dict[str, Any]]:
    """The reference as plain values."""
    return [asdict(found) for found in listed]


def summary_json(result: Result, path: Path) -> dict[str, Any]:
    """The end of a run as plain values."""
    last: dict[str, Any] = {}
    for record in result.history:
        last.update(record)
    return {**last, "model": str(path)}


def summary(result: Result, path: Path) -> list[Any]:
    """The last evaluation of every phase, and where the model is."""
    evaluated = [record for record in result.history if "eval_loss" in record]
    metrics = sorted(
        {key for record in evaluated for key in record if key.startswith("eval_")} - {"eval_loss"}
    )
    rows: list[list[str]] = []
    for record in evaluated:
        row = [
            str(record["phase"]),
            str(record["level"]),
            f"{record['step']:,}",
            f"{record['eval_loss']:.4f}",
            *(f"{record[key]:.4f}" if key in record else "" for key in metrics),
            f"{record['flops']:.3g}",
            f"{record['seconds']:.0f}",
        ]
        if rows and rows[-1][0] == row[0]:
            rows.pop()
        rows.append(row)
    lines: list[Any] = []
    if rows:
        named = [key.removeprefix("eval_") for key in metrics]
        headers = ["phase", "level", "step", "evaluation loss", *named, "FLOPs", "seconds"]
        lines += [table(headers, rows, right=range(len(headers))), ""]
    return [*lines, f"wrote {path}"]


def forecast_json(found: Forecast) -> dict[str, Any]:
    """A forecast as plain values, bytes and seconds."""
    return {**asdict(found), "flops": found.flops, "seconds": found.seconds}


def forecast(found: Forecast) -> list[Any]:
    """What every training phase takes, and the whole run."""
    from mlgraph.inspect.text.numbers import count, plural, size

    rows = [
        [
            f"{phase.phase}",
            f"{phase.level}",
            count(phase.parameters),
            f"{phase.steps:,}",
            count(phase.tokens),
            f"{phase.flops:.3g}",
            "" if phase.seconds is None else _duration(phase.steps * phase.seconds),
        ]
        for phase in found.phases
    ]
    parts = ("weights", "gradients", "optimizer", "activations", "gathered", "aside", "host")
    shown = [part for part in parts if any(getattr(phase.memory, part) for phase in found.phases)]
    memory = [
        [
            f"{phase.phase}",
            *(size(getattr(phase.memory, part)) for part in shown),
            size(phase.memory.device),
        ]
        for phase in found.phases
    ]
    headers = ["phase", "level", "parameters", "steps", "tokens", "FLOPs", "time"]
    each = "in the process" if found.processes == 1 else f"in each of {found.processes} processes"
    largest = max(phase.checkpoint for phase in found.phases)
    time = (
        "steps were not timed: a process of the run does not fit here"
        if found.seconds is None
        else f"{_duration(found.seconds)} of steps as timed here in one process, without what processes send"
    )
    return [
        table(headers, rows, right=range(len(headers))),
        "",
        f"memory {each}, activations at most",
        table(["phase", *shown, "device"], memory, right=range(len(shown) + 2)),
        "",
        f"{found.flops:.3g} FLOPs in all; {time}",
        f"a checkpoint takes {size(largest)}, the run directory {size(found.run_directory)} at most; "
        f"{plural(len(found.phases), 'phase')} of training",
    ]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def study(found: StudyTable) -> list[Any]:
    """The arms of a study: settings found, losses by seed, costs and savings; then the baseline's curve."""
    from mlgraph.train.sweep.table import settings_text

    rows = []
    for arm in found.arms:
        losses = " ".join(f"{run.loss:.3f}" for run in arm.runs.values())
        flops = [run.flops for run in arm.runs.values()]
        spent = f"{sum(flops) / len(flops):.3g}" if flops else ""
        saved = "baseline" if arm.baseline else arm.summary("flops")
        rows.append([arm.name, str(arm.tuning_runs), losses or "still searched", spent, saved])
    headers = ["arm", "tuned", "loss by seed", "FLOPs", "FLOPs saved"]
    chosen = [f"{arm.name}: {settings_text(arm.settings)}" for arm in found.arms if arm.settings]
    lines: list[Any] = [table(headers, rows, right=(1, 3)), "", *chosen, ""]
    if found.curve:
        points = [
            [f"{p.share:g}", " ".join(f"{run.loss:.3f}" for run in p.runs.values())] for p in found.curve
        ]
        lines += [table(["baseline's length", "loss by seed"], points), ""]
    if found.missing:
        lines.append(f"{found.missing} final runs are missing; the same command goes on.")
    return lines


def report(found: Report) -> list[Any]:
    """What every recipe saved over the baseline, and what was written."""
    from mlgraph.train.results.report import describe

    lines: list[Any] = []
    if found.comparisons:
        rows = [
            [comparison.name, str(len(comparison.runs)), *map(describe, comparison.savings.values())]
            for comparison in found.comparisons
        ]
        names = ", ".join(run.name for run in found.baseline)
        lines = [
            f"saved at the final loss of {names}",
            table(["recipe", "runs", "FLOPs", "time"], rows, right=(1,)),
            "",
        ]
    return [*lines, *found.notes, "wrote " + ", ".join(str(path) for path in found.files)]


def report_json(found: Report) -> dict[str, Any]:
    """The same as plain values: per recipe and cost the share saved by each run, null for never."""
    return {
        "baseline": [run.name for run in found.baseline],
        "recipes": [_recipe_json(comparison) for comparison in found.comparisons],
        "files": [str(path) for path in found.files],
        "notes": list(found.notes),
    }


def _recipe_json(comparison: RecipeComparison) -> dict[str, Any]:
    saved = {cost: [one.share for one in savings] for cost, savings in comparison.savings.items()}
    return {"runs": [run.name for run in comparison.runs], "saved": saved}
