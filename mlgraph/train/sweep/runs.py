"""Which runs a study needs next, given those that are finished."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlgraph.train.sweep.study import Study

Stage = Literal["search", "final", "curve"]
TWINS = "twins"
"""The metric of a final run's end: the share of its neurons that are copies of another one."""


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: an arm at some settings, a length and a seed."""

    stage: Stage
    arm: str
    settings: Mapping[str, Any] = field(hash=False)
    share: float
    seed: int

    @property
    def is_final(self) -> bool:
        """Whether it is read for the report and not for the search."""
        return self.stage != "search"

    @property
    def name(self) -> str:
        """A folder name that only this run has: arm, length, seed and a digest of the settings."""
        text = json.dumps(sorted(self.settings.items()), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        kind = "report" if self.is_final else "search"
        return f"{kind}-{self.arm}-{self.share:g}-s{self.seed}-{digest}"


@dataclass(frozen=True)
class RunOutcome:
    """What a finished run reached at level 1, and what it cost. A run that diverged has an infinite loss."""

    loss: float
    flops: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


Outcomes = Mapping[str, RunOutcome]
"""Outcomes of finished runs by their names."""


def searched(study: Study, arm: str, outcomes: Outcomes) -> Iterator[list[StudyRun]]:
    """The rungs of an arm as far as they are known: each one's runs, chosen by the ends of the one before."""
    seed = study.seeds[0]
    settings = list(study.settings(arm))
    for number, share in enumerate(study.search.rungs):
        trials = [StudyRun("search", arm, chosen, share, seed) for chosen in settings]
        yield trials
        if any(trial.name not in outcomes for trial in trials):
            return
        ranked = sorted(trials, key=lambda trial: outcomes[trial.name].loss)
        count = study.search.survivors(number + 1, len(list(study.settings(arm))))
        settings = [dict(trial.settings) for trial in ranked[:count]]


def best(study: Study, arm: str, outcomes: Outcomes) -> StudyRun | None:
    """The setting with the lowest loss at full length; None while the search goes on."""
    rungs = list(searched(study, arm, outcomes))
    last = rungs[-1]
    if len(rungs) < len(study.search.rungs) or any(trial.name not in outcomes for trial in last):
        return None
    found = min(last, key=lambda trial: outcomes[trial.name].loss)
    return found if math.isfinite(outcomes[found.name].loss) else None


def needed(study: Study, outcomes: Outcomes) -> list[StudyRun]:
    """Runs that are not finished and whose turn it is: of the search, and of arms that are tuned."""
    return [trial for trial in begun(study, outcomes) if trial.name not in outcomes]


def begun(study: Study, outcomes: Outcomes) -> list[StudyRun]:
    """Runs that are finished or whose turn it is, each once."""
    wanted: list[StudyRun] = []
    for arm in study.arms:
        for rung in searched(study, arm, outcomes):
            wanted += rung
        found = best(study, arm, outcomes)
        if found is not None:
            wanted += reported(study, found)
    return list({trial.name: trial for trial in wanted}.values())


def reported(study: Study, found: StudyRun) -> list[StudyRun]:
    """The runs that are reported of a tuned arm: every seed, and for the baseline every length."""
    is_baseline = found.arm == study.baseline
    lengths = sorted({*study.curve, 1.0}) if is_baseline else [1.0]
    return [
        StudyRun("final" if share == 1.0 else "curve", found.arm, found.settings, share, seed)
        for share in lengths
        for seed in study.seeds
    ]
