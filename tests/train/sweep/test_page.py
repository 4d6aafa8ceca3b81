"""A study's page: what it shows can be traced to runs, and unfinished studies are told as such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlgraph.cli.app import run
from mlgraph.train.errors import TrainError
from mlgraph.train.sweep.folder import StudyFolder
from mlgraph.train.sweep.page import write_study
from mlgraph.train.sweep.runs import TWINS, StudyRun, needed
from mlgraph.train.sweep.table import Share, interval
from tests.train.sweep.test_runs import cost, study


def record(trial: StudyRun) -> list[dict[str, object]]:
    """A run of five evaluations that falls in a line to where ``cost`` says that it ends."""
    end = cost(trial)
    return [
        {
            "step": n,
            "level": 1,
            "flops": end.flops * n / 5,
            "seconds": end.seconds * n / 5,
            "eval_loss": end.loss + (5 - n) * 0.1,
        }
        for n in range(1, 6)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    made = study(out=str(tmp_path_factory.mktemp("studies") / "text"))
    found = StudyFolder.of(made)
    while trials := needed(made, found.outcomes()):
        run = found.run(trials[0])
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in record(trials[0])))
        found.finish(trials[0], found={TWINS: 0.25} if trials[0].is_final else None)
    return found


def test_a_study_is_read_back_as_it_was_run(folder: StudyFolder):
    assert folder.study() == study(out=str(folder.path))
    assert not needed(folder.study(), folder.outcomes())


def test_the_page_names_every_run_and_the_savings(folder: StudyFolder, tmp_path: Path):
    report = write_study(folder, tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text()
    assert all(name in page for name in folder.outcomes())
    assert "+50.0% ± 0.0%" in page
    assert "25.0%" in page
    assert all(path.stat().st_size > 1000 for path in report.files)
    # against the one run at full length: the cycle is at its end, where the baseline ends, at half the cost
    assert [one.share for one in report.single["cycle"]["flops"]] == pytest.approx([0.5, 0.5])
    json.dumps(report.to_json(), allow_nan=False)


def test_a_study_without_a_finished_run_is_refused(tmp_path: Path):
    with pytest.raises(TrainError, match="has no finished run yet: let mlgraph sweep go on"):
        write_study(StudyFolder.of(study(out=str(tmp_path / "young"))), tmp_path / "study.html")


def test_the_interval_is_students():
    assert interval([Share(0.1, "exact"), Share(0.3, "exact")]) == "-107.1% to +147.1%"
    assert interval([Share(0.1, "exact")]) == ""


def test_the_command_reports_a_study(folder: StudyFolder, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def told(*options: str) -> str:
        capsys.readouterr()
        assert run(["report", str(folder.path), "-o", str(tmp_path / "r.html"), *options]) == 0
        return capsys.readouterr().out

    assert "| cycle | lr 0.1 |" in told("--markdown")
    assert json.loads(told("--json"))["single"]["cycle"]["flops"] == pytest.approx([0.5, 0.5])
    assert max(map(len, told().splitlines())) <= 80
