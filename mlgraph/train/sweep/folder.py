"""The folder of a study: its runs, what they reached, and locks that several machines respect."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from mlgraph.files import write_text
from mlgraph.train.errors import TrainError
from mlgraph.train.results.metrics import Record, read_metrics
from mlgraph.train.sweep.runs import Outcomes, RunOutcome, StudyRun
from mlgraph.train.sweep.study import Study
from mlgraph.train.tables import build

STUDY = "study.json"
"""The file of a study's folder that describes it."""


class StudyFolder:
    """Where a study's runs lie. Safe to use from several processes and machines over one file system.

    ``runs/NAME`` is the run directory of a trial, ``outcomes/NAME.json`` is written once it is finished, and
    ``locks/NAME.lock`` is held by whoever runs it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, study: Study) -> StudyFolder:
        """The folder of a study, made where there is none yet; ``TrainError`` where it is another study's."""
        folder = cls(Path(study.out))
        for name in ("runs", "outcomes", "locks"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        folder._describe(study)
        return folder

    @property
    def exists(self) -> bool:
        """Whether a study was ever run here."""
        return (self.path / STUDY).exists() and (self.path / "outcomes").is_dir()

    def study(self) -> Study:
        """The study that was run here."""
        try:
            return build(Study, json.loads((self.path / STUDY).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise TrainError(f"{self.path / STUDY} cannot be read: {error}.") from error

    def _describe(self, study: Study) -> None:
        # in the order given, since the draw of settings goes by it
        described = json.dumps(asdict(study), indent=1) + "\n"
        path = self.path / STUDY
        with FileLock(self.path / "locks" / "study.lock"):
            if not path.exists():
                write_text(path, described)
            elif path.read_text(encoding="utf-8") != described:
                raise TrainError(
                    f"{self.path} holds another study: give the study another out, or remove the folder."
                )

    def history(self, trial: StudyRun) -> list[Record]:
        """The records of a trial's run."""
        return read_metrics(self.run(trial) / "metrics.jsonl")

    def run(self, trial: StudyRun) -> Path:
        """The run directory of a trial."""
        return self.path / "runs" / trial.name

    @contextmanager
    def claimed(self, trial: StudyRun) -> Iterator[bool]:
        """Whether this process may run the trial now; it alone, while the context lasts."""
        lock = FileLock(self.path / "locks" / f"{trial.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield not self._outcome(trial.name).exists()
        finally:
            lock.release()

    def outcomes(self) -> Outcomes:
        """What every finished run reached."""
        found = {}
        for path in sorted((self.path / "outcomes").glob("*.json")):
            values = json.loads(path.read_text(encoding="utf-8"))
            values["loss"] = math.inf if values["loss"] is None else values["loss"]
            found[path.stem] = RunOutcome(**values)
        return found

    def finish(
        self, trial: StudyRun, diverged: str | None = None, found: Mapping[str, float] | None = None
    ) -> None:
        """Write down what a run reached, ``found`` with it; ``diverged`` says why it ended early."""
        history = self.history(trial)
        ends = [record for record in history if "eval_loss" in record and record["level"] == 1]
        if diverged is None and not ends:
            raise TrainError(f"{self.run(trial)} was not evaluated: give the study evaluation data.")
        last = ends[-1] if ends else {"flops": 0.0, "seconds": 0.0}
        metrics = {key: value for key, value in last.items() if key.startswith("eval_")}
        outcome = RunOutcome(
            math.inf if diverged is not None else last["eval_loss"],
            last["flops"],
            last["seconds"],
            {} if diverged is not None else {**metrics, **(found or {})},
        )
        values = asdict(outcome)
        values["loss"] = None if math.isinf(outcome.loss) else outcome.loss
        write_text(self._outcome(trial.name), json.dumps(values) + "\n")
        if not trial.is_final:
            # what a search is read for are its metrics; hundreds of checkpoints fill a disk
            for name in ("checkpoints", "levels"):
                shutil.rmtree(self.run(trial) / name, ignore_errors=True)

    def _outcome(self, name: str) -> Path:
        return self.path / "outcomes" / f"{name}.json"
