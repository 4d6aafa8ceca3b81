from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mlgraph
from mlgraph.passes import Coalesce, Lemon
from mlgraph.passes.interpolate import Mix
from mlgraph.passes.registry import PASSES, load_pass
from mlgraph.program import Program
from mlgraph.train import (
    Apply,
    Coarsen,
    Interpolate,
    Optimizer,
    Refine,
    Schedule,
    Train,
    TrainError,
    run,
    vcycle,
)
from mlgraph.train.engine.carry import counterparts, new_parameters, only_first_copies, state_map
from mlgraph.train.engine.levels import Level, change_level, mix_state
from mlgraph.train.engine.optimizer_state import write_state
from mlgraph.train.optimizer import OptimizerState
from tests.selection import some
from tests.train.models import cross_entropy, points, program


def _gradients(of: Program) -> dict[str, torch.Tensor]:
    module = mlgraph.emit(
        of.replace(tensors=of.tensors.replace({n: t.detach().double() for n, t in of.tensors.items()}))
    )
    x, y = points(1, size=16)[0]
    cross_entropy(module(x.double()), (x, y)).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def _moments(gradients: dict[str, torch.Tensor]) -> OptimizerState:
    return {
        name: {"exp_avg": g, "exp_avg_sq": g.square(), "step": torch.tensor(7.0)}
        for name, g in gradients.items()
    }


def _check_equal(state: OptimizerState, expected: OptimizerState) -> None:
    assert state.keys() == expected.keys()
    for name, entries in expected.items():
        for key, value in entries.items():
            torch.testing.assert_close(state[name][key], value, rtol=1e-9, atol=1e-12, msg=f"{name} {key}")


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
@pytest.mark.parametrize("width", [2, 4])
def test_carried_up_in_width_moments_are_the_grown_programs(width: int, pairing: str) -> None:
    coarse = mlgraph.coalesce(program(), width=width, pairing=pairing)
    fine = mlgraph.decoalesce(coarse)
    carried = state_map(coarse, "up", "carry")(_moments(_gradients(coarse)))
    _check_equal(carried, _moments(_gradients(fine)))


@pytest.mark.parametrize(
    "down",
    [
        Coalesce(axes={"mlp": "2:select"}),
        Coalesce(axes={"mlp": "2:select:pad"}),
        Coalesce(axes={"mlp": [[0, 1, 2], [3], [7, 5]]}, reduce="select"),
    ],
    ids=str,
)
def test_the_same_holds_for_what_was_selected(down: Coalesce) -> None:
    coarse = down(program())
    fine = mlgraph.decoalesce(coarse)
    _check_equal(state_map(coarse, "up", "carry")(_moments(_gradients(coarse))), _moments(_gradients(fine)))


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
def test_selected_from_a_copy_first_moments_are_the_coarse_programs(pairing: str) -> None:
    coarse = mlgraph.coalesce(program(), width=2, pairing=pairing, reduce="select")
    moved = state_map(coarse, "down", "carry")(_moments(_gradients(mlgraph.decoalesce(coarse))))
    for name, gradient in _gradients(coarse).items():
        torch.testing.assert_close(moved[name]["exp_avg"], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_holds_for_growth_by_uneven_shares(seed: int) -> None:
    small = program()
    exact = {name: tensor.detach().double() for name, tensor in small.tensors.items()}
    small = small.replace(tensors=small.tensors.replace(exact))
    grown = Lemon(width=1, axes={"mlp": 2}, seed=seed)(small)
    _check_equal(state_map(grown, "up", "carry")(_moments(_gradients(small))), _moments(_gradients(grown)))


@pytest.mark.parametrize(
    "options",
    [
        {"reduce": "select"},
        {"reduce": "select", "extend": "pad", "width": 1},
        {"layers": (0, 3), "extend": "pad", "depth": 1, "axes": {"mlp": "2:select:pad"}, "width": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", some(["carry", "asymmetric"], ["carry"]))
def test_a_cycle_trains_whatever_the_way(options: dict[str, Any], mode: str) -> None:
    phases = vcycle(20, init_steps=6, coarse_steps=10, **options)
    chosen: dict[str, Any] = {"optimizer": Optimizer(lr=1e-2), "optimizer_state": mode, "log_every": 1}
    result = run(program(), phases, points(), None, cross_entropy, **chosen)
    losses = [r["loss"] for r in result.history if "loss" in r and r["phase"] == len(phases) - 1]
    assert losses[-1] < losses[0]


def test_the_same_holds_for_growth_without_a_parent() -> None:
    small = program()
    grown = mlgraph.decoalesce(small, width=2)
    _check_equal(state_map(grown, "up", "carry")(_moments(_gradients(small))), _moments(_gradients(grown)))


def test_carried_down_first_moments_are_the_coarse_programs() -> None:
    coarse = mlgraph.coalesce(program(), width=2)
    # On the image of de-coalescing the two programs are one function, and their gradients adjoint.
    fine = mlgraph.decoalesce(coarse)
    down = state_map(coarse, "down", "carry")(_moments(_gradients(fine)))
    expected = _gradients(coarse)
    for name, entries in down.items():
        torch.testing.assert_close(entries["exp_avg"], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (2, 2), (4, 4)])
def test_going_up_and_down_again_keeps_first_moments(sizes: tuple[int, int]) -> None:
    coarse = mlgraph.coalesce(program(1), depth=sizes[0], width=sizes[1])
    generator = torch.Generator().manual_seed(1)
    state = {
        name: {"exp_avg": torch.randn(t.shape, generator=generator), "step": torch.tensor(3.0)}
        for name, t in coarse.tensors.items()
        if name in coarse.tensors.parameters
    }
    up = state_map(coarse, "up", "carry")(state)
    assert {name: entries["exp_avg"].shape for name, entries in up.items()} == {
        name: t.shape for name, t in program().tensors.items() if name in program().tensors.parameters
    }
    down = state_map(coarse, "down", "carry")(up)
    for name, entries in state.items():
        torch.testing.assert_close(down[name]["exp_avg"], entries["exp_avg"], rtol=1e-5, atol=1e-6)
        assert down[name]["step"] == 3.0


def test_identity_copies_keep_the_first_blocks_moments_whole() -> None:
    small = program()
    grown = mlgraph.decoalesce(small, depth=2, depth_mode="identity")
    carried = state_map(grown, "up", "carry", "identity")(_moments(_gradients(small)))
    expected = _gradients(grown)
    assert carried
    for name, entries in carried.items():
        torch.testing.assert_close(entries["exp_avg"], expected[name], rtol=1e-9, atol=1e-12)


def test_asymmetric_state_is_kept_for_first_copies_alone() -> None:
    coarse = mlgraph.coalesce(program(), depth=2, width=2)
    state = _moments(_gradients(coarse))
    carried, partly = (state_map(coarse, "up", mode)(state) for mode in ("carry", "asymmetric"))
    new = new_parameters(coarse)
    assert new == {
        name for name in program().tensors.parameters if name.startswith(("blocks.1.", "blocks.3."))
    }
    assert partly.keys() == carried.keys() - new
    weight = partly["blocks.0.up.weight"]["exp_avg"]
    assert torch.equal(weight[::2, ::2], carried["blocks.0.up.weight"]["exp_avg"][::2, ::2])
    assert not weight[1::2].any()
    assert not weight[:, 1::2].any()


def test_the_mask_of_first_copies_follows_the_pairing() -> None:
    coarse = mlgraph.coalesce(program(), width=2, pairing="halves")
    transfer = counterparts(coarse)["blocks.0.up.bias"].transfer
    assert transfer is not None
    assert only_first_copies(torch.ones(32), transfer).tolist() == [1.0] * 16 + [0.0] * 16


def test_reset_drops_everything() -> None:
    coarse = mlgraph.coalesce(program(), width=2)
    assert state_map(coarse, "up", "reset")(_moments(_gradients(coarse))) == {}


@given(st.floats(0, 1))
def test_mixing_is_linear_and_keeps_the_larger_step(alpha: float) -> None:
    first = {"w": {"exp_avg": torch.tensor([1.0, 2.0]), "step": torch.tensor(3.0)}}
    second = {"w": {"exp_avg": torch.tensor([5.0, 0.0]), "step": torch.tensor(9.0)}}
    mixed = mix_state(first, second, Mix(program(), alpha))["w"]
    torch.testing.assert_close(
        mixed["exp_avg"], (1 - alpha) * torch.tensor([1.0, 2.0]) + alpha * torch.tensor([5.0, 0.0])
    )
    assert mixed["step"] == 9.0


def test_state_is_placed_in_one_order_in_all_processes() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    entries = {key: torch.zeros(3) for key in ("step", "exp_avg_sq", "exp_avg")}
    orders = []
    for given_order in (entries, dict(reversed(entries.items()))):
        write_state(optimizer, [("weight", parameter)], {"weight": given_order})
        orders.append(list(optimizer.state[parameter]))
    assert orders[0] == orders[1]


def test_state_that_one_side_lacks_is_the_others() -> None:
    second = {"w": {"exp_avg": torch.ones(2), "step": torch.tensor(9.0)}}
    assert torch.equal(mix_state({}, second, Mix(program(), 0.25))["w"]["exp_avg"], torch.ones(2))


def _aside(name: str, of: Program, keeps: bool) -> Callable[[], OptimizerState]:
    return dict


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_interpolating_puts_the_mix_into_the_users_tensors(alpha: float) -> None:
    model = program()
    before = {name: t.detach().clone() for name, t in model.tensors.items()}
    refined = mlgraph.decoalesce(mlgraph.coalesce(model, depth=2, width=2))
    change = change_level(Level(model), [Coarsen(), Refine(), Interpolate(alpha)], 0, "reset", _aside)
    assert change.level.program.tensors["out.weight"] is model.tensors["out.weight"]
    assert change.level.aside == ()
    for name, tensor in change.level.program.tensors.items():
        expected = torch.lerp(before[name], refined.tensors[name], alpha)
        torch.testing.assert_close(tensor.detach(), expected)


@pytest.mark.parametrize("kind", some(["adamw", "sgd"], ["adamw"]))
def test_a_cycle_trains_with_all_of_the_detail(kind: str) -> None:
    phases = vcycle(30, init_steps=6, coarse_steps=10, alpha=1.0, detail=1.0)
    assert phases[4] == Interpolate(alpha=1.0, detail=1.0)
    rate = 1e-2 if kind == "adamw" else 0.05
    options: dict[str, Any] = {"optimizer": Optimizer(kind, lr=rate), "log_every": 5}
    losses = [
        r["loss"]
        for r in run(program(), phases, points(), None, cross_entropy, **options).history
        if "loss" in r
    ]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mode", ["reset", "carry", "asymmetric"])
def test_detail_brings_back_what_the_copies_had_of_their_own(mode: str) -> None:
    model = program()
    before = {name: t.detach().clone() for name, t in model.tensors.items()}
    moments = _moments(_gradients(model))
    aside = lambda name, of, keeps: lambda: moments  # noqa: E731
    phases = [Coarsen(), Refine(), Interpolate(alpha=1.0, detail=1.0)]
    change = change_level(Level(model), phases, 0, mode, aside)
    for name, tensor in change.level.program.tensors.items():
        # untrained in between, a coarse-grid correction corrects nothing
        torch.testing.assert_close(tensor.detach(), before[name])
    if mode == "carry":
        for name, entries in change.state(moments).items():
            torch.testing.assert_close(entries["exp_avg"], moments[name]["exp_avg"])
            assert (entries["exp_avg_sq"] >= 0).all()


def test_refining_without_mixing_is_interpolating_fully() -> None:
    one, other = program(), program()
    change_level(Level(one), [Coarsen(), Refine()], 0, "reset", _aside)
    change_level(Level(other), [Coarsen(), Refine(), Interpolate(1.0)], 0, "reset", _aside)
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("kind", some(["adamw", "sgd"], ["adamw"]))
@pytest.mark.parametrize("mode", some(["reset", "carry", "asymmetric"], ["carry"]))
def test_a_cycle_trains_in_every_mode(kind: str, mode: str) -> None:
    options: dict[str, Any] = {"schedule": Schedule(rewarm=3, rewarm_new=True), "optimizer_state": mode}
    phases = vcycle(30, init_steps=6, coarse_steps=10)
    optimizer = Optimizer(kind, lr=1e-2 if kind == "adamw" else 0.05)
    result = run(
        program(), phases, points(), None, cross_entropy, optimizer=optimizer, log_every=5, **options
    )
    losses = [record["loss"] for record in result.history if "loss" in record]
    assert losses[-1] < 0.8 * losses[0]
    assert {record["level"] for record in result.history} == {1, 2}


def test_state_follows_passes_that_are_applied_one_after_another() -> None:
    model = program()
    exact = {name: tensor.detach().double() for name, tensor in model.tensors.items()}
    model = model.replace(tensors=model.tensors.replace(exact))
    change = change_level(Level(model), [Apply("net2net{width=1,axes={mlp=2}};fpi")], 0, "carry", _aside)
    _check_equal(change.state(_moments(_gradients(model))), _moments(_gradients(change.level.program)))


def test_what_a_copied_copy_is_stays_new() -> None:
    change = change_level(Level(program(depth=2)), [Apply("stack;fpi")], 0, "carry", _aside)
    blocks = {name.split(".")[1] for name in change.level.new}
    assert blocks == {"2", "3"}


def test_a_pass_that_goes_back_is_no_apply() -> None:
    coarse = mlgraph.coalesce(program(), width=2)
    with pytest.raises(TrainError, match="decoalesce does not make a new level of .*: use Refine"):
        change_level(Level(coarse), [Apply("decoalesce")], 0, "carry", _aside)


@pytest.mark.parametrize(
    "name", some(sorted(PASSES.keys() - {"decoalesce", "interpolate"}), ("lemon", "stack"))
)
def test_every_pass_is_a_phase(name: str) -> None:
    phases = [Train(2), Apply(name), Train(2)]
    result = run(program(depth=2), phases, points(), None, cross_entropy, log_every=1)
    made = load_pass(name)()(program(depth=2))
    assert result.program.num_parameters() == made.num_parameters()
    assert [r["changed"] for r in result.history if "changed" in r] == [["apply"]]


def test_a_run_goes_on_behind_a_pass_that_was_applied(tmp_path: Path) -> None:
    phases = [Train(2), Apply("lemon{width=2,depth=2}"), Train(4)]

    def trained(data: Any, **options: Any) -> Program:
        return run(program(depth=2), phases, data, None, cross_entropy, **options).program

    class Stopping(list[Any]):
        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__()):
                if number == 4:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    with pytest.raises(SystemExit):
        trained(Stopping(points()), out_dir=tmp_path / "run")
    whole, resumed = trained(points()), trained(points(), out_dir=tmp_path / "run")
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


def test_programs_grow_during_a_run() -> None:
    phases = [Train(4), Refine(depth=2, width=2), Train(4)]
    result = run(program(depth=2), phases, points(), None, cross_entropy)
    assert result.program.num_parameters() > 4 * program(depth=2).num_parameters()
