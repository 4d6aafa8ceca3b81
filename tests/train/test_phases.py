from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.passes import Coalesce, Decoalesce, Lemon, Stack
from mlgraph.passes.pipeline import Pipeline
from mlgraph.train import (
    Apply,
    Coarsen,
    Interpolate,
    Phase,
    Refine,
    Schedule,
    Train,
    TrainError,
    cascade,
    fmg,
    plain,
    progressive_stacking,
    vcycle,
    wcycle,
)
from mlgraph.train.phases import check_phases, from_json, levels_of, to_json

BUILDERS = [vcycle, wcycle, fmg]


def test_the_vcycle_is_the_papers() -> None:
    assert vcycle(steps=2000, init_steps=100, coarse_steps=1000, alpha=0.25) == [
        Train(100),
        Coarsen(),
        Train(1000),
        Refine(),
        Interpolate(0.25),
        Train(1900),
    ]


def test_half_the_steps_are_coarse_by_default() -> None:
    assert Train(500) in vcycle(steps=1000, init_steps=10)


def test_levels_take_their_own_numbers() -> None:
    phases = vcycle(
        100, init_steps=(10, 5), coarse_steps=(50, 30), levels=3, alpha=(0.1, 0.2), lr=(1.0, 2.0, 3.0)
    )
    down = [Train(10, lr=1.0), Coarsen(), Train(5, lr=2.0), Coarsen(), Train(30, lr=3.0)]
    up = [Refine(), Interpolate(0.2), Train(45, lr=2.0), Refine(), Interpolate(0.1), Train(90, lr=1.0)]
    assert phases == down + up


def test_the_wcycle_visits_middle_levels_twice() -> None:
    phases = wcycle(100, init_steps=(10, 5), coarse_steps=(50, 30), levels=3)
    levels = zip(levels_of(phases), phases, strict=True)
    assert [level for level, phase in levels if isinstance(phase, Train)] == [1, 2, 3, 2, 3, 2, 1]
    assert sum(p.steps for p in phases if isinstance(p, Train)) == 100 + 2 * (50 + 30)


@given(
    st.sampled_from(BUILDERS), st.integers(1, 4), st.integers(0, 40), st.integers(0, 20), st.integers(20, 50)
)
def test_cycles_are_well_formed(builder, levels: int, steps: int, init: int, coarse: int) -> None:
    phases = builder(steps + init, init_steps=init, coarse_steps=coarse, levels=levels)
    check_phases(phases)
    at = levels_of(phases)
    assert at[-1] == 1 if phases else True
    assert max([1, *at]) <= levels
    at_top = [p.steps for p, level in zip(phases, at, strict=True) if isinstance(p, Train) and level == 1]
    assert sum(at_top) == steps + init
    assert from_json(to_json(phases)) == phases
    assert all(not isinstance(p, Train) or p.steps > 0 for p in phases)


def test_stacking_grows_to_the_users_model() -> None:
    phases = progressive_stacking([10, 20, 30])
    assert levels_of(phases) == [2, 3, 3, 2, 2, 1, 1]
    assert [p.steps for p in phases if isinstance(p, Train)] == [10, 20, 30]
    assert all(
        p.operator.width == 1 and p.operator.pairing == "halves" for p in phases if isinstance(p, Coarsen)
    )
    check_phases(phases)


def test_a_cascade_goes_up_only() -> None:
    phases = cascade(100, coarse_steps=(40, 30), levels=3, width=1, lr=(1.0, 2.0, 3.0))
    down = [Coarsen(Coalesce(depth=2))] * 2
    assert phases == [*down, Train(30, lr=3.0), Refine(), Train(40, lr=2.0), Refine(), Train(100, lr=1.0)]
    check_phases(phases)


def test_phases_hold_passes() -> None:
    assert Coarsen() == Coarsen(Coalesce(depth=2, width=2)) == Coarsen("coalesce{depth=2,width=2}")
    assert Coarsen(width=1, axes={"mlp": [0, 0, 1]}).operator == Coalesce(depth=2, axes={"mlp": (0, 0, 1)})
    assert Refine(depth_mode="scaled") == Refine(Decoalesce(depth_mode="scaled"))
    assert Interpolate(0.25) == Interpolate(alpha=0.25)
    assert Apply("lemon{width=1.5};stack").operator == Pipeline((Lemon(width=1.5), Stack()))
    assert Apply("lemon", width=1.5) == Apply(Lemon(width=1.5))


# What the versions before phases held passes wrote into configurations and run directories.
WRITTEN_BEFORE: list[tuple[dict, Phase]] = [
    ({"phase": "train", "steps": 3, "lr": 0.5, "schedule": {"kind": "wsd"}}, Train(3, 0.5, Schedule("wsd"))),
    ({"phase": "coarsen"}, Coarsen(Coalesce(depth=2, width=2))),
    ({"phase": "coarsen", "depth": 4, "width": 1, "pairing": "halves"}, Coarsen(Coalesce(4, 1, "halves"))),
    ({"phase": "coarsen", "axes": {"mlp": 3}, "state": "reset"}, Coarsen(axes={"mlp": 3}, state="reset")),
    ({"phase": "refine"}, Refine(Decoalesce())),
    ({"phase": "refine", "width": 2, "depth_mode": "scaled"}, Refine(width=2, depth_mode="scaled")),
    ({"phase": "interpolate", "alpha": 0.25}, Interpolate(0.25)),
    ({"phase": "interpolate"}, Interpolate(0.5)),
]


@pytest.mark.parametrize(("table", "phase"), WRITTEN_BEFORE)
def test_tables_written_before_are_read_and_written_again(table: dict, phase: Phase) -> None:
    assert from_json([table]) == [phase]
    assert to_json([phase]) == [table]


def test_any_pass_is_a_phase_in_tables() -> None:
    table = {"phase": "apply", "pass": "lemon{width=1.5};stack"}
    assert to_json(from_json([table])) == [table]
    keys = {"phase": "apply", "pass": "lemon", "width": 1.5, "seed": 3}
    assert from_json([keys]) == [Apply(Lemon(width=1.5, seed=3))]
    assert levels_of([Coarsen(), *from_json([table])]) == [2, 0]


def test_schedules_of_phases_survive_json() -> None:
    phases: list[Phase] = [Train(3, lr=0.5, schedule=Schedule("wsd", warmup=2)), Coarsen(axes={"mlp": 3})]
    assert from_json(to_json(phases)) == phases


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Interpolate(0.5)], "Phase 0 .interpolate. has nothing to mix"),
        ([Coarsen(), Interpolate(0.5)], "Phase 1 .interpolate. has nothing to mix"),
        ([Coarsen(), Refine(), Train(1), Interpolate(0.5)], "Phase 3"),
        ([Train(1), Refine()], "Phase 1 .refine. has no parent"),
        ([Coarsen(), Refine(depth=2), Refine()], "Phase 2 .refine. has no parent"),
    ],
)
def test_phases_that_cannot_follow_are_refused(phases: list[Phase], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        check_phases(phases)


def test_a_coarse_program_may_be_refined_first() -> None:
    check_phases([Train(1), Refine(), Train(1)], has_parent=True)
    with pytest.raises(TrainError, match="nothing to mix"):
        check_phases([Refine(), Interpolate()], has_parent=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Train(-1), "steps=-1"),
        (lambda: Interpolate(1.5), "between 0 and 1"),
        (lambda: Coarsen(state="keep"), "'keep' is unknown: choose one of reset, carry, asymmetric"),
        (lambda: vcycle(10, init_steps=11), "init_steps=11 exceeds the 10 steps of level 1"),
        (lambda: vcycle(10, levels=3, alpha=(0.5,)), "alpha gives 1 values where 2 are needed"),
        (lambda: vcycle(10, levels=0), "at least one level"),
        (lambda: from_json([{"phase": "trian"}]), "kind 'trian'"),
        (lambda: from_json([{"phase": "train", "step": 3}]), "Phase 0 .train.: .*no field 'step'"),
        (lambda: from_json([{"phase": "coarsen", "widht": 3}]), "Phase 0 .coarsen.: .*did you mean 'width'"),
        (lambda: from_json([{"phase": "apply"}]), "Phase 0 .apply.: .*there is no pass"),
        (lambda: Coarsen(pairing="random"), "Coarsen: Option 'pairing' .*'random'"),
        (lambda: Coarsen(Lemon()), "lemon is not one pass that coarsens: use Apply"),
        (lambda: Coarsen(3), "3 is no pass"),
        (lambda: Coarsen(Coalesce(), width=2), "not width beside a pass"),
        (lambda: Refine(Lemon()), "lemon does not go back to a level: use Apply"),
        (lambda: Apply("lemno"), "no pass 'lemno'; did you mean 'lemon'"),
        (lambda: cascade(10, alpha=0.5), "cascade takes no option 'alpha'"),
        (lambda: vcycle(10, widht=3), "no field 'widht': did you mean 'width'"),
    ],
)
def test_wrong_options_are_named(make, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        make()


def test_plain_training_is_one_phase() -> None:
    assert plain(7, lr=0.1) == [Train(7, lr=0.1)]
