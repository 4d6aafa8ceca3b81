"""What a study says: every arm against the curve of fully decayed baselines, per seed.

A saving is read at equal loss: the cost at which the tuned baseline, run to its decayed end at several
lengths, comes down to the loss of an arm's run of the same seed, against what that run cost. Between two
lengths the loss is taken to be linear in the logarithm of the cost. Where a run ends below every baseline the
saving is at least what it is against the longest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import mean, stdev
from typing import Any, Literal

from mlgraph.train.sweep.runs import Outcomes, RunOutcome, StudyRun, best, reported, searched
from mlgraph.train.sweep.study import Study

COSTS = ("flops", "seconds")
Bound = Literal["exact", "at least", "at most", "unknown"]


@dataclass(frozen=True)
class Share:
    """The part of the baseline's cost that one run saved; negative where it cost more.

    ``bound`` says whether the baseline's curve covers the run's loss (``exact``), ends above it
    (``at least``) or begins below it (``at most``).
    """

    value: float | None
    bound: Bound


@dataclass(frozen=True)
class ArmRow:
    """One arm: the settings found, its runs by seed, and what each of them saved by cost."""

    name: str
    baseline: bool
    tuning_runs: int
    settings: Mapping[str, Any] | None
    runs: Mapping[int, RunOutcome]
    saved: Mapping[str, Sequence[Share]]

    def summary(self, cost: str) -> str:
        """The mean saving and its deviation over seeds, and how many of them are bounds only."""
        shares = self.saved.get(cost, ())
        known = [share.value for share in shares if share.value is not None]
        if self.baseline or not shares:
            return ""
        if not known:
            return "unknown"
        spread = f" ± {stdev(known):.1%}" if len(known) > 1 else ""
        bounds = [f"{b} in {n}" for b in ("at least", "at most") if (n := sum(s.bound == b for s in shares))]
        return f"{mean(known):+.1%}{spread}" + (f" ({', '.join(bounds)})" if bounds else "")


@dataclass(frozen=True)
class StudyPoint:
    """The baseline at one length: costs and losses by seed."""

    share: float
    runs: Mapping[int, RunOutcome]


@dataclass(frozen=True)
class StudyTable:
    """Every arm, the baseline's curve, and how the loss of searched runs depends on each tuned field."""

    prediction: str
    arms: Sequence[ArmRow]
    curve: Sequence[StudyPoint]
    sensitivity: Mapping[str, Mapping[str, Sequence[tuple[Any, float]]]]
    missing: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; losses of diverged runs are null."""
        return _plain(asdict(self))  # type: ignore[no-any-return]


def interval(shares: Sequence[Share]) -> str:
    """The 95% interval of the mean saving by Student's t over seeds; empty where fewer than two are known."""
    from scipy.stats import t

    known = [share.value for share in shares if share.value is not None]
    if len(known) < 2:
        return ""
    half = float(t.ppf(0.975, len(known) - 1)) * stdev(known) / math.sqrt(len(known))
    return f"{mean(known) - half:+.1%} to {mean(known) + half:+.1%}"


def tabulate(study: Study, outcomes: Outcomes) -> StudyTable:
    """The table of a study as far as its runs are finished."""
    found = {arm: best(study, arm, outcomes) for arm in study.arms}
    baseline = found[study.baseline]
    curve = [] if baseline is None else _curve(reported(study, baseline), outcomes)
    rows, missing = [], 0
    for arm, chosen in found.items():
        rungs = list(searched(study, arm, outcomes))
        finals = [] if chosen is None else [t for t in reported(study, chosen) if t.share == 1.0]
        runs = {trial.seed: outcomes[trial.name] for trial in finals if trial.name in outcomes}
        missing += len(study.seeds) - len(runs)
        is_baseline = arm == study.baseline
        compared = {} if is_baseline else runs
        saved = {cost: [_saved(curve, s, run, cost) for s, run in compared.items()] for cost in COSTS}
        count = sum(trial.name in outcomes for rung in rungs for trial in rung)
        rows.append(ArmRow(arm, is_baseline, count, None if chosen is None else chosen.settings, runs, saved))
    sensitivity = {arm: _sensitivity(study, arm, outcomes) for arm in study.arms}
    return StudyTable(study.prediction, rows, curve, sensitivity, missing)


def _curve(trials: Sequence[StudyRun], outcomes: Outcomes) -> list[StudyPoint]:
    by_share: dict[float, dict[int, RunOutcome]] = {}
    for trial in trials:
        if trial.name in outcomes:
            by_share.setdefault(trial.share, {})[trial.seed] = outcomes[trial.name]
    return [StudyPoint(share, runs) for share, runs in sorted(by_share.items())]


def _saved(curve: Sequence[StudyPoint], seed: int, run: RunOutcome, cost: str) -> Share:
    """What a run saved over the baselines of its own seed."""
    points = [(getattr(p.runs[seed], cost), p.runs[seed].loss) for p in curve if seed in p.runs]
    # a longer run that ends higher than a shorter one is worth no more than the shorter
    falling: list[tuple[float, float]] = []
    for spent, loss in sorted(points):
        if not falling or loss < falling[-1][1]:
            falling.append((spent, loss))
    if not falling or not math.isfinite(run.loss):
        return Share(None, "unknown")
    spent = getattr(run, cost)
    if run.loss < falling[-1][1]:
        return Share(1.0 - spent / max(points)[0], "at least")
    if run.loss > falling[0][1]:
        return Share(1.0 - spent / falling[0][0], "at most")
    for (low, high_loss), (high, low_loss) in pairwise(falling):
        if low_loss <= run.loss <= high_loss:
            part = (high_loss - run.loss) / (high_loss - low_loss)
            reached = math.exp(math.log(low) + part * (math.log(high) - math.log(low)))
            return Share(1.0 - spent / reached, "exact")
    return Share(1.0 - spent / falling[0][0], "exact")


def _sensitivity(study: Study, arm: str, outcomes: Outcomes) -> dict[str, list[tuple[Any, float]]]:
    """Per tuned field and value, the lowest loss among runs of the first rung, where all values are tried."""
    first = next(searched(study, arm, outcomes))
    found: dict[str, list[tuple[Any, float]]] = {}
    for name, values in (study.every_arm[arm].tune or {}).items():
        lows = []
        for value in values:
            ran = [trial for trial in first if trial.settings[name] == value and trial.name in outcomes]
            losses = [outcomes[trial.name].loss for trial in ran]
            if losses:
                lows.append((value, min(losses)))
        found[name] = lows
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in short: the last word of each field, and its value."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in settings.items())


def markdown(table: StudyTable) -> str:
    """The arms as a Markdown table, one row each, for a paper or a README."""
    rows = ["| arm | settings | tuning runs | final losses | TFLOPs | FLOPs saved | time saved |"]
    rows.append("|---|---|---:|---|---:|---:|---:|")
    for arm in table.arms:
        settings = settings_text(arm.settings or {})
        losses = ", ".join(f"{run.loss:.3f}" for run in arm.runs.values())
        flops = f"{mean(run.flops for run in arm.runs.values()) / 1e12:.1f}" if arm.runs else ""
        saved = ["baseline" if arm.baseline else arm.summary(cost) for cost in COSTS]
        cells = [arm.name, settings, str(arm.tuning_runs), losses, flops, *saved]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
