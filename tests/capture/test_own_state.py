"""What a model keeps for itself, and what stands around it: kept, told, or refused in one sentence."""

from __future__ import annotations

import importlib
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mlgraph
from mlgraph import CaptureError, capture, emit

X = torch.randn(3, 7, 6)


class Model(nn.Module):
    """Two linear maps and what ``change`` does between them."""

    def __init__(self, change: Callable[[torch.Tensor, Model], torch.Tensor] = lambda h, m: h) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, 8), nn.Linear(8, 5)
        self.change = change
        self.kept: list[torch.Tensor] = []
        self.counts = {"calls": [0]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.change(self.inp(x), self))


def counted(h: torch.Tensor, model: Model) -> torch.Tensor:
    model.counts["calls"][0] += 1
    return h * model.counts["calls"][0]


def accumulated(h: torch.Tensor, model: Model) -> torch.Tensor:
    if model.training:
        model.kept.append(h.detach())
        return h + sum(model.kept[:-1])
    return h


DEPENDENT: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "a container": (counted, "Model.counts"),
    "a list that training fills": (accumulated, "Model.kept"),
    "Python's draws": (lambda h, m: h * random.random(), "Python's random numbers"),
    "NumPy's draws": (lambda h, m: h * float(numpy.random.rand()), "NumPy's random numbers"),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_results_that_depend_on_what_a_model_keeps_are_refused_and_it_is_left_as_it_was(name: str) -> None:
    change, words = DEPENDENT[name]
    model = Model(change)
    before = random.getstate(), numpy.random.get_state()[1].tolist()
    with pytest.raises(CaptureError, match=words):
        capture(model, (X,))
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before
    assert not model.kept
    assert model.counts == {"calls": [0]}


def test_what_is_kept_and_not_read_is_no_obstacle_and_is_left_as_it_was() -> None:
    model = Model(lambda h, m: (m.kept.append(h), h)[1])
    torch.testing.assert_close(emit(capture(model, (X,)))(X), model(X))
    assert len(model.kept) == 1


def test_weights_written_behind_autograd_are_left_as_they_were() -> None:
    def halved(h: torch.Tensor, model: Model) -> torch.Tensor:
        model.out.weight.data.mul_(0.5)
        raise ValueError("no way on")

    model = Model(halved)
    before = model.out.weight.detach().clone()
    with pytest.raises(CaptureError, match="no way on"):
        capture(model, (X,))
    assert torch.equal(model.out.weight, before)


def test_hooks_on_gradients_of_parameters_are_refused_or_noted() -> None:
    model = Model()
    handle = model.inp.weight.register_hook(lambda gradient: gradient * 0.1)
    with pytest.raises(CaptureError, match="the hook on the gradient of inp.weight at .*test_own_state"):
        capture(model, (X,))
    handle.remove()
    model.inp.weight.register_hook(lambda gradient: None)
    model.out.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    notes = [str(note) for note in capture(model, (X,)).notes if note.kind == "mode"]
    assert len(notes) == 2
    assert "out.weight" in notes[0]
    assert "inp.weight" in notes[1]


def test_hooks_of_the_model_itself_see_its_arguments_as_they_were_given() -> None:
    model = Model()
    model.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model.register_forward_hook(lambda module, args, result: result + args[0].mean())
    module = emit(capture(model, (X,)))
    torch.testing.assert_close(module(X), model(X))
    torch.testing.assert_close(module(x=X), model(X))


def test_tensors_in_the_same_memory_are_named_and_not_written_to() -> None:
    def apart(h: torch.Tensor, model: Model) -> torch.Tensor:
        return h @ model.first @ model.second

    flat = torch.randn(2, 8, 8)
    model = Model(apart)
    model.first, model.second = nn.Parameter(flat[0]), nn.Parameter(flat[1])
    assert not [note for note in capture(model, (X,)).notes if note.kind == "weights"]
    model.second = nn.Parameter(model.first.data.t())
    (note,) = [note for note in capture(model, (X,)).notes if note.kind == "weights"]
    assert note.text.startswith("first and second lie in the same memory")

    def written(h: torch.Tensor, model: Model) -> torch.Tensor:
        model.row.add_(1)
        return h + model.rows.sum(0)

    model = Model(written)
    model.register_buffer("rows", torch.zeros(2, 8))
    model.register_buffer("row", model.rows[0])
    with pytest.raises(CaptureError, match="rows and row lie in the same memory, .* writes to row"):
        capture(model, (X,))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)


class Box:
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value


class Boxed(Model):
    def forward(self, x: torch.Tensor) -> Any:
        return Box(self.inp(x))


def with_script() -> nn.Module:
    model = Model()
    model.inp = torch.jit.script(model.inp)  # type: ignore[assignment]
    return model


UNREADABLE: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "TorchScript": (lambda: torch.jit.script(nn.Linear(6, 3)), X, "the model is a TorchScript module"),
    "TorchScript inside": (with_script, X, "inp is a TorchScript module"),
    "no shapes yet": (Lazy, X, r"out \(LazyLinear\) has parameters without shapes yet"),
    "nested tensors": (Model, torch.nested.nested_tensor([X[0], X[1, :3]]), "an argument is a nested tensor"),
    "a class of its own": (Boxed, X, "forward returns or takes a Box, .* register"),
    "vmap": (lambda: Model(lambda h, m: torch.func.vmap(torch.sin)(h)), X, "test_own_state.*uses torch.func"),
    "a generator": (
        lambda: Model(lambda h, m: h + torch.rand(8, generator=torch.Generator())),
        X,
        r"test_own_state.*uses an object of torch's \(Generator\)",
    ),
    "a branch": (
        lambda: Model(lambda h, m: torch.cond(h.sum() > 0, lambda t: t * 2, lambda t: t - 1, (h,))),
        X,
        "branches .* a flat graph cannot hold",
    ),
    "a gradient in forward": (
        lambda: Model(
            lambda h, m: torch.autograd.grad(
                (h if h.requires_grad else h.requires_grad_()).tanh().sum(), h, create_graph=True
            )[0]
        ),
        X,
        "test_own_state.* takes a gradient in forward",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_one_sentence(name: str) -> None:
    make, x, words = UNREADABLE[name]
    with pytest.raises(CaptureError, match=words) as refusal:
        capture(make(), (x,))
    assert "\n" not in str(refusal.value)


def test_large_models_are_compared_in_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("mlgraph.capture.check"), "_LIGHT", 0)
    assert not [note for note in capture(Model(), (X,)).notes if note.kind != "fixed"]
    model = Model()
    model.inp.weight.register_hook(lambda gradient: gradient * 0.1)
    with pytest.raises(CaptureError, match="the gradient of inp.weight differs"):
        capture(model, (X,))
    with pytest.raises(CaptureError, match="Model.kept"):
        capture(Model(accumulated), (X,))


def test_words_among_the_arguments_are_checked(tmp_path: Any) -> None:
    class Reduced(Model):
        def forward(self, x: torch.Tensor, by: str = "it's") -> torch.Tensor:
            return self.out(self.inp(x)) * (2 if by == "it's" else 1)

    program = capture(Reduced(), (X, "it's"))
    mlgraph.save(program, tmp_path / "m.pt")
    module = emit(mlgraph.load(tmp_path / "m.pt"))
    torch.testing.assert_close(module(X), emit(program)(X))
    with pytest.raises(mlgraph.MlgraphError, match='argument by was "it\'s" in the capture'):
        module(X, "sum")


def test_a_part_with_a_name_that_emitted_modules_use_is_refused() -> None:
    model = nn.Module()
    model.program = nn.Linear(6, 3)
    model.forward = lambda x: model.program(x)  # type: ignore[method-assign]
    with pytest.raises(mlgraph.MlgraphError, match="a part called program"):
        emit(capture(model, (X,)))


def test_regions_without_autocast_are_kept_by_files(tmp_path: Any) -> None:
    def apart(h: torch.Tensor, model: Model) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return F.linear(h.float(), model.out.weight.t() @ model.out.weight)

    model = Model(apart).eval()
    program = capture(model, (X,))
    mlgraph.save(program, tmp_path / "m.pt")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = model(X)
        for again in (program, mlgraph.load(tmp_path / "m.pt")):
            assert torch.equal(emit(again).eval()(X), wanted)


class Named(nn.Module):
    """Arguments called as what generated code calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, 3)

    def forward(
        self, F: torch.Tensor, max: torch.Tensor, other: torch.Tensor | None = None, list: Any = None
    ) -> torch.Tensor:
        mixed = torch.maximum(F, max)
        return self.inp(mixed)[:, : mixed.shape[1] // 2].softmax(-1)


def test_arguments_may_be_called_as_anything() -> None:
    model = Named()
    module = pickle.loads(pickle.dumps(emit(capture(model, (X, X + 1)))))
    torch.testing.assert_close(module(X, X - 1), model(X, X - 1))
    torch.testing.assert_close(module(max=X, F=X), model(X, X))
    with pytest.raises(mlgraph.MlgraphError, match="argument other was not given"):
        module(X, X, X)
    with pytest.raises(mlgraph.MlgraphError, match="must have shape"):
        module(X, X[..., :2])


def test_buffers_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        shift = torch.ones(8)
    model = Model(lambda h, m: h + m.shift)
    model.register_buffer("shift", shift)
    torch.testing.assert_close(emit(capture(model, (X,)))(X), model(X))


def test_gradients_that_evaluation_alone_leaves_out_are_noted() -> None:
    def trained(h: torch.Tensor, model: Model) -> torch.Tensor:
        with torch.set_grad_enabled(model.training):
            return h * h.sigmoid()

    (note,) = [note for note in capture(Model(trained), (X,)).notes if note.kind == "mode"]
    assert "gradients in evaluation" in note
    assert "inp.weight" in note


class Extended(Model):
    def get_extra_state(self) -> Any:
        return {"version": 3}


def test_state_beside_tensors_is_named() -> None:
    (note,) = [note for note in capture(Extended(), (X,)).notes if note.kind == "weights"]
    assert "_extra_state" in note


def registered(h: torch.Tensor, model: Model) -> torch.Tensor:
    if not hasattr(model, "table"):
        model.register_buffer("table", torch.arange(h.shape[1]).to(h.dtype).cos(), persistent=False)
    return h * model.table[:, None]


def test_a_buffer_that_forward_registers_is_computed_and_writes_to_no_input() -> None:
    model = Model(registered)
    program = capture(model, (X,))
    assert not dict(model.named_buffers())
    given = torch.randn(2, 9, 6)
    before, fresh = given.clone(), Model(registered)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(emit(program)(given), fresh(given))
    assert torch.equal(given, before)


def test_whether_a_buffer_is_saved_stays_as_it_was() -> None:
    def renewed(h: torch.Tensor, model: Model) -> torch.Tensor:
        model.register_buffer("table", torch.ones(8), persistent=False)
        return h * model.table

    model = Model(renewed)
    model.register_buffer("table", torch.ones(8))
    capture(model, (X,))
    assert "table" in model.state_dict()


def test_what_accumulates_in_a_buffer_that_forward_registers_is_refused() -> None:
    def accumulating(h: torch.Tensor, model: Model) -> torch.Tensor:
        if not hasattr(model, "calls"):
            model.register_buffer("calls", torch.zeros(()))
        model.calls += 1
        return h * model.calls

    with pytest.raises(CaptureError, match=r"Model\.calls"):
        capture(Model(accumulating), (X,))


def test_padded_positions_that_the_fast_path_leaves_out_are_told() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
            return self.encoder(x, src_key_padding_mask=padding)

    model, x = Padded(), torch.randn(2, 5, 8)
    padding = torch.arange(5).expand(2, 5) > 3
    program = capture(model, (x, padding))
    assert any("encoder gives zeros at padded positions" in note for note in program.notes)
    assert model.training
    module = emit(program).eval()
    torch.testing.assert_close(module(x, padding), model.eval()(x, padding))
    with torch.no_grad():
        off = (module(x, padding) - model(x, padding)).abs().amax(-1)
    assert float(off[~padding].max()) < 1e-5 < float(off[padding].min())
