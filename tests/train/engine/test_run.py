from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mlgraph
from mlgraph.train import (
    DivergedError,
    Optimizer,
    RunDirectoryError,
    Schedule,
    Train,
    plain,
    run,
)
from tests.train.models import Classifier, classifier, cross_entropy, points, program

OPTIONS: dict[str, Any] = {"loss": cross_entropy, "optimizer": Optimizer(lr=1e-2), "log_every": 4}


def _train(
    model: nn.Module | mlgraph.Program | None = None, steps: int = 8, data: Any = None, **options: Any
) -> Any:
    batches = points() if data is None else data
    return run(model or program(), plain(steps), batches, **{**OPTIONS, **options})


def _bare(steps: int, clip: float = 1.0) -> nn.Module:
    """The same training as a loop of its own."""
    model, data = classifier(), points()
    decays = [p for p in model.parameters() if p.ndim > 1]
    plain_ones = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": plain_ones, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * Schedule().factor(step, steps)
        batch = data[step % len(data)]
        cross_entropy(model(batch[0]), batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_a_plain_run_is_the_bare_loop() -> None:
    trained = _train().program
    for name, tensor in _bare(8).named_parameters():
        torch.testing.assert_close(trained.tensors[name].detach(), tensor.detach(), rtol=1e-5, atol=1e-6)


def test_the_users_module_is_trained_in_place() -> None:
    model = classifier()
    trained = _train(model).program
    assert all(torch.equal(trained.tensors[name], p) for name, p in model.named_parameters())
    assert not torch.equal(model.inp.weight, classifier().inp.weight)


def test_the_loss_goes_down_and_history_says_so() -> None:
    history = _train(steps=40, eval_data=points(2, seed=1), eval_every=20).history
    losses = [record["loss"] for record in history if "loss" in record]
    assert losses[-1] < 0.7 * losses[0]
    assert [record["step"] for record in history if "eval_loss" in record] == [20, 40]
    last = history[-1]
    assert last["tokens"] == 40 * 5
    assert last["flops"] > 0
    assert last["seconds"] > 0


def test_accumulated_batches_make_one_step() -> None:
    data = points(batches=4, size=6)
    split = [(x[i : i + 3], y[i : i + 3]) for x, y in data for i in (0, 3)]
    options = {"optimizer": Optimizer("sgd", lr=0.1)}
    whole = _train(data=data, **options).program
    parts = _train(data=split, accumulate=2, **options).program
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(tensor.detach(), parts.tensors[name].detach(), rtol=1e-4, atol=1e-5)


def test_metrics_of_a_users_own_are_averaged() -> None:
    def accuracy(outputs: torch.Tensor, batch: Any) -> dict[str, torch.Tensor]:
        return {"accuracy": (outputs.argmax(-1) == batch[1]).float().mean()}

    history = _train(steps=60, eval_data=points(2, seed=1), metric=accuracy).history
    assert 0.5 < history[-1]["eval_accuracy"] <= 1.0


def test_runs_of_one_seed_are_equal_and_of_two_differ() -> None:
    def weights(seed: int) -> torch.Tensor:
        return _train(program(dropout=0.3), seed=seed).program.tensors["out.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_mixed_precision_trains(precision: str) -> None:
    history = _train(steps=40, mixed_precision=precision).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_any_optimizer_can_be_used() -> None:
    history = _train(steps=30, optimizer=lambda groups: torch.optim.RMSprop(groups, lr=1e-3)).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_tensorboard_shows_the_losses_of_a_run_directory(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = _train(eval_data=points()[:2], out_dir=tmp_path / "run").history
    written = EventAccumulator(str(tmp_path / "run" / "mlgraph")).Reload()
    shown = [event.value for event in written.Scalars("loss")]
    assert shown == pytest.approx([record["loss"] for record in history if "loss" in record])
    assert written.Scalars("eval_loss")


def test_no_tracker_is_used_where_none_is_wanted(tmp_path: Path) -> None:
    _train(out_dir=tmp_path / "run", trackers=())
    assert not (tmp_path / "run" / "mlgraph").exists()


@pytest.mark.parametrize("checkpoint_every", [0, 3])
def test_a_finished_run_is_not_run_again(tmp_path: Path, checkpoint_every: int) -> None:
    out = tmp_path / "run"
    first = _train(out_dir=out, checkpoint_every=checkpoint_every)
    written = (out / "metrics.jsonl").read_bytes()
    again = _train(out_dir=out, checkpoint_every=checkpoint_every)
    assert (out / "metrics.jsonl").read_bytes() == written
    assert again.history == first.history
    assert torch.equal(again.program.tensors["out.weight"], first.program.tensors["out.weight"])


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    _train(steps=20, out_dir=tmp_path / "run", checkpoint_every=2, keep=3)
    names = sorted(entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000016-0000", "000000018-0000", "000000020-0001"]


class Stopping(list[Any]):
    """Batches, a signal being sent before the sixth, ``times`` times."""

    def __init__(self, batches: Any, number: int, times: int = 1) -> None:
        super().__init__(batches)
        self.number, self.times = number, times

    def __iter__(self) -> Any:
        for position, batch in enumerate(super().__iter__()):
            for _ in range(self.times if position == 5 else 0):
                os.kill(os.getpid(), self.number)
            yield batch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(
    number: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _train(program(dropout=0.2), steps=12).program
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        _train(program(dropout=0.2), steps=12, data=Stopping(points(), number), out_dir=out)
    assert stopped.value.code == code
    assert "stopped at step 6; the same command goes on" in capsys.readouterr().err
    assert (out / "checkpoints" / "000000006-0000").is_dir()
    resumed = _train(program(dropout=0.2), steps=12, out_dir=out).program
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    out, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _train(steps=12, data=Stopping(points(), signal.SIGINT, times=2), out_dir=out)
    assert not (out / "checkpoints" / "000000006-0000").exists()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 9}, r"run.phases\[0\].steps = 8, and now run.phases\[0\].steps = 9"),
        ({"optimizer": Optimizer(lr=1e-3)}, r"run.optimizer.lr = 0.01"),
        ({"model": program(width=32)}, r"run.model.parameters"),
        ({"config": {"data": "b"}}, r"data = \"a\""),
    ],
)
def test_another_configuration_is_refused_by_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    _train(out_dir=tmp_path / "run", config={"data": "a"})
    with pytest.raises(RunDirectoryError, match=field):
        _train(**{"out_dir": tmp_path / "run", "config": {"data": "a"}, **change})


def test_a_directory_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(RunDirectoryError, match="holds files but no run"):
        _train(out_dir=tmp_path)


def test_nan_stops_the_run_and_names_step_and_checkpoint(tmp_path: Path) -> None:
    calls = 0

    def breaking(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(outputs, batch) * (float("nan") if calls == 6 else 1.0)

    with pytest.raises(DivergedError, match=r"nan at step 6 .*checkpoints/000000004-0000") as raised:
        _train(loss=breaking, out_dir=tmp_path / "run", checkpoint_every=2)
    assert "lower the learning rate" in str(raised.value)
    state = json.loads((tmp_path / "run/checkpoints/000000004-0000/state.json").read_text())
    assert state["step"] == 4


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path) -> None:
    def train(**options: Any) -> Any:
        return _train(program(width=64), **options)

    out = tmp_path / "run"
    train(steps=0, out_dir=tmp_path / "size")
    sizes = [path.stat().st_size for path in (tmp_path / "size").rglob("*")]
    limit = max(sizes) + 2000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Weights fit under the limit, and weights with Adam's two moments do not: the second checkpoint fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(RunDirectoryError, match=r"could not be written.*000000000-0000, is whole"):
            train(out_dir=out, checkpoint_every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    whole, resumed = train().program, train(out_dir=out, checkpoint_every=2).program
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


def test_a_run_directory_of_the_first_format_goes_on(tmp_path: Path) -> None:
    whole = _train(program(dropout=0.2), out_dir=tmp_path / "whole", checkpoint_every=3).program
    out = tmp_path / "run"
    _train(program(dropout=0.2), out_dir=out, checkpoint_every=3, keep=9)
    for later in sorted((out / "checkpoints").iterdir())[2:]:
        shutil.rmtree(later)
    _as_first_format(out / "checkpoints" / "000000003-0000")
    described = json.loads((out / "run.json").read_text())
    for name in ("fsdp_replicas", "fsdp_offload", "fsdp_policy", "recompute", "background"):
        del described["run"][name]
    (out / "run.json").write_text(json.dumps(described))
    shutil.rmtree(out / "levels")
    (out / "levels").mkdir()
    resumed = _train(program(dropout=0.2), out_dir=out, checkpoint_every=3, keep=9).program
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


def _as_first_format(checkpoint: Path) -> None:
    """Rewrite a checkpoint of one process as the first format had it: two files, and rounds in its state."""
    held = load_file(checkpoint / "rows-00000.safetensors")
    for kind in ("model", "optimizer"):
        part = {name.removeprefix(f"{kind}/"): t for name, t in held.items() if name.startswith(f"{kind}/")}
        save_file(part, checkpoint / f"{kind}.safetensors")
    state = json.loads((checkpoint / "state.json").read_text())
    stream = state["processes"][0]["stream"]
    stream["rounds"] = stream.pop("batches")
    (checkpoint / "state.json").write_text(json.dumps(state))
    for name in ("manifest.json", "rows-00000.safetensors"):
        (checkpoint / name).unlink()


def test_a_model_may_return_its_loss() -> None:
    class WithLoss(Classifier):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
            logits = super().forward(x)
            return {"loss": nn.functional.cross_entropy(logits, y), "logits": logits}

    torch.manual_seed(0)
    model = WithLoss()
    by_name = [{"x": x, "y": y} for x, y in points()]
    history = run(model, plain(20), by_name, optimizer=Optimizer(lr=1e-2)).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_phases_have_learning_rates_of_their_own() -> None:
    phases = [Train(4, lr=0.5), Train(4, lr=0.25)]
    history = run(program(), phases, points(), schedule=Schedule("constant"), **OPTIONS).history
    assert [record["lr"] for record in history] == [0.5, 0.25]
