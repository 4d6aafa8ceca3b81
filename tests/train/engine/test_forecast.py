"""What a run is said to take, beside what it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mlgraph
from mlgraph.cli.render.training import forecast as rendered
from mlgraph.inspect.text.console import show
from mlgraph.program import Program
from mlgraph.train import Settings, Train, TrainError, run, vcycle
from mlgraph.train.engine.forecast import forecast, state_ratio
from mlgraph.train.engine.processes import make_accelerator
from mlgraph.train.engine.timing import step_seconds
from mlgraph.train.engine.worker import Worker
from mlgraph.train.schedule import Rate
from tests.train.models import classifier, cross_entropy, points

PHASES = vcycle(steps=6, init_steps=2, coarse_steps=3)
SETTINGS = Settings(trackers=())


@pytest.fixture(scope="module")
def program() -> Program:
    return mlgraph.capture(classifier(width=32), (points()[0][0],), check=False)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_memory_is_that_of_a_step(program: Program) -> None:
    batch = points(size=64)[0]
    memory = forecast(program, [Train(1)], batch, SETTINGS, 1).phases[0].memory
    worker = Worker(make_accelerator(SETTINGS, None), program, SETTINGS, loss=cross_entropy)
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        worker.step([batch], Rate(1e-3, 1e-3))
    parameters = [tensor for _, tensor in worker._named_parameters()]
    assert memory.weights == memory.gradients == _bytes(parameters)
    state = worker.optimizer_state().values()
    assert memory.optimizer == _bytes(t for entries in state for t in entries.values() if t.ndim)
    given = {*(p.untyped_storage().data_ptr() for p in parameters), *(x.data_ptr() for x in batch)}
    held = sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in given)
    assert memory.activations / 2 < held <= memory.activations + batch[0].shape[0] * 3 * 4 * 2
    worker.close()


def test_a_run_spends_and_writes_what_was_said(program: Program, tmp_path: Path) -> None:
    batches = points()
    said = forecast(program, PHASES, batches[0], SETTINGS, 1)
    result = run(program, PHASES, batches, loss=cross_entropy, out_dir=tmp_path / "run", trackers=())
    last = [record for record in result.history if "loss" in record][-1]
    assert said.flops == last["flops"]
    assert sum(phase.tokens for phase in said.phases) == last["tokens"]
    assert [phase.level for phase in said.phases] == [1, 2, 1]
    coarse = next(record for record in result.history if record.get("changed") == ["coarsen"])
    assert said.phases[1].parameters == coarse["parameters"]
    newest = max((tmp_path / "run").rglob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    written = sum(file.stat().st_size for file in newest.parent.rglob("*.safetensors"))
    assert 0.9 < said.phases[-1].checkpoint / written < 1.1


def test_what_is_shared_is_divided(program: Program) -> None:
    batch = points()[0]
    alone = forecast(program, PHASES, batch, SETTINGS, 1).phases
    four = forecast(program, PHASES, batch, replace(SETTINGS, fsdp=True), 4).phases
    two = forecast(program, PHASES, batch, replace(SETTINGS, fsdp=True, fsdp_replicas=2), 4).phases
    for one, quarter, half in zip(alone, four, two, strict=True):
        assert quarter.memory.weights == -(-one.memory.weights // 4)
        assert half.memory.optimizer == -(-one.memory.optimizer // 2)
        assert 0 < quarter.memory.gathered <= 2 * one.memory.weights
        assert quarter.flops == 4 * one.flops
    assert alone[1].memory.aside == alone[0].memory.weights
    assert (four[1].memory.aside, four[1].memory.host) == (0, four[0].memory.weights)
    with pytest.raises(TrainError, match="fsdp_replicas = 3 does not divide 4"):
        forecast(program, PHASES, batch, replace(SETTINGS, fsdp=True, fsdp_replicas=3), 4)


def test_what_does_not_fit_is_named(program: Program) -> None:
    batch = points(size=4096)[0]
    said = forecast(program, PHASES, batch, SETTINGS, 2)
    less = forecast(program, PHASES, batch, replace(SETTINGS, recompute=True), 2)
    assert less.largest.memory.activations < said.largest.memory.activations
    said.check(said.largest.memory.device)
    with pytest.raises(
        TrainError, match=r"Phase 0 \(train, level 1\).*each of 2.*activations.*run.recompute"
    ):
        said.check(said.largest.memory.device - 1)


def test_the_state_of_any_optimizer_is_counted() -> None:
    assert state_ratio(torch.optim.Adam) == 2.0
    assert state_ratio(lambda groups: torch.optim.SGD(groups, lr=0.1)) == 0.0


def test_every_training_phase_is_timed(program: Program) -> None:
    seconds = step_seconds(
        program, PHASES, points()[0], cross_entropy, SETTINGS, make_accelerator(SETTINGS, None)
    )
    assert set(seconds) == {n for n, phase in enumerate(PHASES) if isinstance(phase, Train)}
    assert all(value > 0 for value in seconds.values())
    said = forecast(program, PHASES, points()[0], SETTINGS, 1).timed(seconds)
    assert said.seconds == pytest.approx(sum(phase.steps * seconds[phase.phase] for phase in said.phases))


def test_it_is_shown_in_eighty_columns(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = forecast(program, PHASES, points()[0], replace(SETTINGS, fsdp=True), 4)
    show(*rendered(said.timed(dict.fromkeys(range(6), 12.0))))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("FLOPs in all; 132 s" in line for line in lines) or any("2 min" in line for line in lines)
