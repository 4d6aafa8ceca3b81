from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.train import TrainError, vcycle
from mlgraph.train.phases import to_json
from mlgraph.train.results.report import choose_baseline, compare, describe, read_run, write_report
from mlgraph.train.results.savings import Saving, cost_to_reach, curve, saving, spread


def _history(points: list[tuple[float, float]], level: int = 1) -> list[dict[str, Any]]:
    return [
        {"step": n, "level": level, "flops": cost, "seconds": cost / 10, "tokens": n, "eval_loss": loss}
        for n, (cost, loss) in enumerate(points)
    ]


def test_a_cost_is_read_off_between_evaluations() -> None:
    assert cost_to_reach([(10.0, 4.0), (20.0, 2.0)], 3.0) == 15.0
    assert cost_to_reach([(10.0, 4.0), (20.0, 2.0)], 5.0) == 10.0
    assert cost_to_reach([(10.0, 4.0), (20.0, 2.0)], 1.0) is None


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 10)), min_size=1, max_size=8), st.floats(0, 10))
def test_a_cost_lies_where_the_loss_was_reached(points: list[tuple[float, float]], loss: float) -> None:
    points = sorted(points)
    cost = cost_to_reach(points, loss)
    reached = [at for at, value in points if value <= loss]
    assert (cost is None) == (not reached)
    if cost is not None:
        assert points[0][0] <= cost <= reached[0] + 1e-9


def test_savings_count_evaluations_at_level_one_alone() -> None:
    base = _history([(10, 4), (20, 3)])
    run = [*_history([(5, 1)], level=2), *_history([(12, 3.5), (14, 2.5)])]
    found = saving(base, run, "flops")
    assert found is not None
    assert (found.loss, found.cost, found.share) == (3.0, 13.0, pytest.approx(0.35))
    assert saving(base, [], "flops") is None
    assert curve(run, "seconds")[0] == (1.2, 3.5)


def test_a_run_that_costs_more_or_never_gets_there_says_so() -> None:
    base = _history([(10, 4), (20, 3)])
    assert saving(base, _history([(30, 3)]), "flops").share == pytest.approx(-0.5)  # type: ignore[union-attr]
    assert saving(base, _history([(30, 3.1)]), "flops").share is None  # type: ignore[union-attr]
    assert describe([Saving(3.0, 20.0, None)]) == "never reached"
    assert describe([Saving(3.0, 20.0, 15.0), Saving(3.0, 20.0, 25.0), Saving(3.0, 20.0, None)]) == (
        "+0.0% ± 35.4% (1 never reached)"
    )
    assert spread([Saving(3.0, 20.0, 10.0)]).mean == pytest.approx(0.5)


def _directory(
    folder: Path,
    name: str,
    phases: list[Any],
    seed: int,
    points: list[tuple[float, float]],
    text: str = "a.txt",
) -> Path:
    (folder / name).mkdir()
    data = {"train": [text]}
    run = {"phases": to_json(phases), "seed": seed, "optimizer": {"lr": 1}}
    (folder / name / "run.json").write_text(json.dumps({"out": name, "data": data, "run": run}))
    lines = [json.dumps(record) + "\n" for record in _history(points)]
    (folder / name / "metrics.jsonl").write_text("".join(lines) + '{"step": 9, "ev')
    return folder / name


def test_a_report_is_one_page_with_pictures(tmp_path: Path) -> None:
    cycle = vcycle(10, 2, 4)
    paths = [
        _directory(tmp_path, "plain", vcycle(10, levels=1), 0, [(10, 4), (20, 3)]),
        _directory(tmp_path, "worse", vcycle(11, levels=1), 0, [(10, 4), (20, 3.5)]),
        _directory(tmp_path, "v<0>", cycle, 0, [(10, 3.5), (15, 2.5)]),
        _directory(tmp_path, "v1", cycle, 1, [(10, 3.5), (19, 2.5)]),
    ]
    runs = [read_run(path) for path in paths]
    base = choose_baseline(runs, None)
    assert [run.name for run in base] == ["plain"]
    found = next(c for c in compare(runs, base) if len(c.runs) == 2)
    assert [s.cost for s in found.savings["flops"]] == [12.5, 14.5]
    written = write_report(runs, tmp_path / "report.html").files
    page = written[0].read_text()
    assert len(re.findall("data:image/png;base64,", page)) == 2
    assert "http" not in page
    assert "v&lt;0&gt;" in page
    assert "+32.5% ± 7.1%" in page
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])


def test_runs_are_paired_by_seed_and_grouped_by_what_they_were_told(tmp_path: Path) -> None:
    plain, cycle = vcycle(10, levels=1), vcycle(10, 2, 4)
    paths = [
        _directory(tmp_path, "plain1", plain, 1, [(10, 4), (20, 3)]),
        _directory(tmp_path, "plain0", plain, 0, [(10, 4), (20, 2)]),
        _directory(tmp_path, "v0", cycle, 0, [(10, 3), (12, 2)]),
        _directory(tmp_path, "v1", cycle, 1, [(10, 3), (12, 2)]),
        _directory(tmp_path, "v7", cycle, 7, [(10, 3), (12, 2)]),
        _directory(tmp_path, "other", cycle, 0, [(10, 3), (12, 2)], text="b.txt"),
    ]
    runs = [read_run(path) for path in paths]
    found = {comparison.name: comparison for comparison in compare(runs, choose_baseline(runs, None))}
    # the other one read another text
    assert {name: len(comparison.runs) for name, comparison in found.items()} == {"v0": 3}
    assert [saved.cost for saved in found["v0"].savings["flops"]] == [12.0, 10.0, 10.0]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="is no run directory"):
        read_run(tmp_path)
    young = read_run(_directory(tmp_path, "young", vcycle(3, levels=1), 0, []))
    with pytest.raises(TrainError, match="no evaluation at level 1"):
        write_report([young], tmp_path / "report.html")
    run = read_run(_directory(tmp_path, "a", vcycle(3, levels=1), 0, [(1, 1)]))
    with pytest.raises(TrainError, match="no run 'b'"):
        choose_baseline([run], "b")


def test_runs_of_different_tasks_are_never_compared(tmp_path: Path) -> None:
    """An image loss never "reaches" a text loss."""
    plain, cycle = vcycle(10, levels=1), vcycle(10, 2, 4)
    paths = [
        _directory(tmp_path, "text", plain, 0, [(10, 6), (20, 5)]),
        _directory(tmp_path, "image", plain, 0, [(10, 2), (20, 1)], text="images"),
        _directory(tmp_path, "image-cycle", cycle, 0, [(10, 2), (15, 1)], text="images"),
        _directory(tmp_path, "sound-cycle", cycle, 0, [(10, 2), (15, 1)], text="sounds"),
        _directory(tmp_path, "young", cycle, 1, []),
    ]
    report = write_report([read_run(path) for path in paths], tmp_path / "report.html")
    assert {run.name for run in report.baseline} == {"text", "image"}
    assert {c.name: c.savings["flops"][0].share for c in report.comparisons} == {"image-cycle": 0.25}
    assert report.notes == [
        "young is left out: it has no evaluation at level 1 yet",
        "compared apart, since task, data or model class differ: text; image, image-cycle; sound-cycle",
        "sound-cycle: there is no run from scratch to compare with",
    ]
