from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.train import Coarsen, Interpolate, Refine, Schedule, Train, TrainError, vcycle
from mlgraph.train.engine.rates import LearningRates
from mlgraph.train.schedule import Rate

KINDS = st.sampled_from(["cosine", "wsd", "linear", "constant"])


@given(KINDS, st.integers(0, 20), st.integers(21, 100), st.floats(0, 1), st.floats(0, 1))
def test_a_schedule_warms_up_then_never_rises(
    kind: str, warmup: int, total: int, final: float, decay: float
) -> None:
    schedule = Schedule(kind, warmup=warmup, final=final, decay=decay)
    factors = [schedule.factor(step, total) for step in range(total)]
    assert all(0 < f <= 1 + 1e-12 or final == 0 for f in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    rest = factors[warmup:]
    assert all(a >= b - 1e-12 for a, b in pairwise(rest))
    assert max(factors) <= 1 + 1e-12
    if kind != "constant":
        assert schedule.factor(total, total) == pytest.approx(final)


def test_cosine_is_half_way_at_half_time() -> None:
    assert Schedule("cosine").factor(50, 100) == pytest.approx(0.5)
    assert Schedule("cosine", final=0.1).factor(25, 100) == pytest.approx(
        0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    )


def test_wsd_is_flat_until_its_tail() -> None:
    schedule = Schedule("wsd", warmup=10, decay=0.2)
    assert [schedule.factor(step, 100) for step in (10, 50, 80)] == [1.0, 1.0, 1.0]
    assert schedule.factor(90, 100) == pytest.approx(0.5)


def test_spans() -> None:
    phases = [Train(10), Coarsen(), Train(20), Refine(), Interpolate(), Train(30)]
    linear = LearningRates(phases, Schedule("linear", over="phase"), 1.0)
    assert [linear.at(n, 0).old for n in (0, 2, 5)] == [1.0, 1.0, 1.0]
    linear = LearningRates(phases, Schedule("linear", over="level"), 1.0)
    assert linear.at(5, 0).old == pytest.approx(0.75)
    assert linear.at(2, 0).old == 1.0
    linear = LearningRates(phases, Schedule("linear", over="run"), 1.0)
    assert [linear.at(n, 0).old for n in (0, 2, 5)] == pytest.approx([1.0, 5 / 6, 0.5])


def test_phases_may_have_rates_and_schedules_of_their_own() -> None:
    phases = [Train(10, lr=2.0), Coarsen(), Train(10, schedule=Schedule("linear"))]
    rates = LearningRates(phases, Schedule("constant", over="run"), 1.0)
    assert rates.at(0, 9).old == 2.0
    assert rates.at(2, 5).old == pytest.approx(0.5)


def test_rewarming_follows_a_change_of_level() -> None:
    phases = vcycle(20, init_steps=5, coarse_steps=5)
    rates = LearningRates(phases, Schedule("constant", rewarm=3), 1.0)
    assert [rates.at(0, step).old for step in range(4)] == [1.0] * 4
    assert [rates.at(5, step).old for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    new_only = LearningRates(phases, Schedule("constant", rewarm=3, rewarm_new=True), 1.0)
    assert new_only.at(5, 0) == Rate(old=1.0, new=0.25)


def test_a_program_that_starts_with_a_coarsening_warms_up_once() -> None:
    schedule = Schedule("constant", warmup=4, rewarm=4)
    rates = LearningRates([Coarsen(), Train(10), Refine(), Train(10)], schedule, 1.0)
    once = pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [rates.at(1, step).old for step in range(5)] == once
    # at the level reached for the first time the span begins, and the change was just before
    assert [rates.at(3, step).old for step in range(5)] == once


def test_wsd_over_a_run_decays_in_a_share_of_the_last_levels_steps() -> None:
    phases = [Train(20), Coarsen(), Train(100), Refine(), Interpolate(), Train(80)]
    rates = LearningRates(phases, Schedule("wsd", over="run", decay=0.2), 1.0)
    falling = [step for step in range(80) if rates.at(5, step).old < 1.0]
    assert falling == list(range(61, 80))
    assert {rates.at(2, step).old for step in range(100)} == {1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cosin"}, "'cosin' is unknown: did you mean 'cosine'?"),
        ({"over": "epoch"}, "choose one of phase, level, run"),
        ({"warmup": -1}, "not negative"),
        ({"decay": 2.0}, "between 0 and 1"),
    ],
)
def test_wrong_schedules_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message.replace("?", r"\?")):
        Schedule(**options)  # type: ignore[arg-type]
