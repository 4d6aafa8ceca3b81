"""Small modules that training, evaluation or gradients tell from a plain trace: kept exactly, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from mlgraph import CaptureError, capture, emit

WIDTH = 16
Change = Callable[[torch.Tensor, "Model"], torch.Tensor]


class Model(nn.Module):
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.weight = nn.Parameter(0.3 * torch.randn(WIDTH, WIDTH))
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.phases = nn.Parameter(torch.randn(WIDTH // 2 + 1, dtype=torch.complex64))
        self.register_buffer("cache", torch.zeros(9, 9, WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("low", torch.randn(WIDTH).half())
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("indices", torch.arange(WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.instance = nn.InstanceNorm1d(WIDTH, affine=True, track_running_stats=True)
        self.spectral = torch.nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH))
        self.number, self.change = 0, change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.change(self.inp(x), self).float())


class Scaled(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, by: float) -> torch.Tensor:
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient * ctx.by, None


class Spike(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (1 + 10 * x.abs()) ** 2


class Quantised(Function):
    """A learned step size: its gradient sums over all that it divided."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, step)
        return (x / step).round().clamp(-4, 3) * step

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, step = ctx.saved_tensors
        level = x / step
        inside = ((level >= -4) & (level <= 3)).to(x.dtype)
        return gradient * inside, (gradient * (level.round().clamp(-4, 3) - level * inside)).sum()


class Product(Function):
    """A linear map that writes down the gradient that autograd would find."""

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return gradient @ weight.T, torch.einsum("bti,bto->io", x, gradient)


class Pair(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return 2 * first + 3 * second


class Clipped(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.clamp(-0.01, 0.01)


def boolean(h: torch.Tensor, model: Model) -> torch.Tensor:
    h = h.clone()
    h[h > 0] = h[h > 0] * 2
    h[h < -1] = 0.5
    return h


def slices(h: torch.Tensor, model: Model) -> torch.Tensor:
    z = torch.zeros_like(h)
    z[..., :8] = h[..., 8:]
    z[:, 1:] += h[:, :-1]
    z[:, 0] = z[:, 1].detach()
    return z + h


def broadcast(h: torch.Tensor, model: Model) -> torch.Tensor:
    z = torch.zeros(*h.shape, dtype=torch.float64)
    z.copy_(h[:1])
    z.add_(1)
    return z.float() + h


def scattered(h: torch.Tensor, model: Model) -> torch.Tensor:
    z = torch.zeros_like(h)
    z.scatter_add_(-1, torch.zeros_like(h, dtype=torch.long), h)
    z.index_add_(1, torch.tensor([0]), h[:, :1])
    return z


def without_gradient(h: torch.Tensor, model: Model) -> torch.Tensor:
    with torch.no_grad():
        gate = (h @ model.weight).sigmoid()
    return h * gate + h.detach()


def into_buffer(h: torch.Tensor, model: Model) -> torch.Tensor:
    kept = torch.mul(h.detach(), 2, out=model.cache[: h.shape[0], : h.shape[1]])
    return h * kept


def cached(h: torch.Tensor, model: Model) -> torch.Tensor:
    model.cache[: h.shape[0], torch.arange(h.shape[1])] = h.detach()
    return h + model.cache.mean((0, 1))


def momentum(h: torch.Tensor, model: Model) -> torch.Tensor:
    with torch.no_grad():
        model.mean.mul_(0.9).add_(h.mean((0, 1)), alpha=0.1)
    return h - model.mean


def assigned(h: torch.Tensor, model: Model) -> torch.Tensor:
    model.mean = model.mean * 0.9 + 0.1 * h.detach().mean((0, 1))
    return h * model.mean


def counted(h: torch.Tensor, model: Model) -> torch.Tensor:
    model.count += 1
    return h * model.count


def numbered(h: torch.Tensor, model: Model) -> torch.Tensor:
    model.number += 1
    return h * model.number


def attention_under_autocast(h: torch.Tensor, model: Model) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        query = h @ model.weight
        weights = F.softmax(query @ query.transpose(1, 2), -1)
        return F.layer_norm(weights @ h, (WIDTH,))


def no_autocast(h: torch.Tensor, model: Model) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = h @ model.weight
        with torch.autocast("cpu", enabled=False):
            return low.float() @ model.weight


def hooked(h: torch.Tensor, hook: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    if h.requires_grad:
        h.register_hook(hook)
    return h


def mask_twice(h: torch.Tensor, model: Model) -> torch.Tensor:
    mask = F.dropout(torch.ones_like(h), 0.5, model.training)
    return h * mask + h.sin() * mask


def written_weights(h: torch.Tensor, model: Model) -> torch.Tensor:
    model.weight.data.clamp_(-0.2, 0.2)
    model.weight.data = model.weight.data * 0.5
    h = h @ model.weight * model.scale.data
    with torch.no_grad():
        model.out.weight.div_(model.out.weight.norm(dim=1, keepdim=True))
    return h


KEPT: dict[str, Change] = {
    "reversed gradient": lambda h, m: Scaled.apply(h, -0.3),
    "surrogate gradient": lambda h, m: Spike.apply(h),
    "learned step size": lambda h, m: Quantised.apply(h, m.scale),
    "the operators' own gradient": lambda h, m: Product.apply(h, m.weight),
    "two results": lambda h, m: sum(Pair.apply(h)),
    "reentrant checkpoint": lambda h, m: checkpoint(lambda t: t.tanh() @ m.weight, h, use_reentrant=True),
    "checkpointed dropout": lambda h, m: checkpoint(
        lambda t: F.dropout(t @ m.weight, 0.3, m.training), h, use_reentrant=True
    ),
    "boolean assignment": boolean,
    "slice assignment": slices,
    "copies that cast and spread": broadcast,
    "scattered": scattered,
    "no gradient": without_gradient,
    "an out of its own": lambda h, m: torch.add(h.detach(), 1, out=torch.empty_like(h)) + h,
    "a buffer as out": into_buffer,
    "cache": cached,
    "running mean": momentum,
    "assigned buffer": assigned,
    "counter": counted,
    "power iteration": lambda h, m: m.spectral(h),
    "batch statistics": lambda h, m: m.norm(h.transpose(1, 2)).transpose(1, 2),
    "instance statistics": lambda h, m: m.instance(h.transpose(1, 2)).transpose(1, 2),
    "writes to weights": written_weights,
    "dropout in every mode": lambda h, m: F.dropout(h, 0.3, True) + F.dropout(h, 0.2, m.training),
    "dropout of any kind in every mode": lambda h, m: F.dropout(
        F.dropout1d(h, 0.3, True)
        + F.alpha_dropout(h, 0.2, True)
        + F.feature_alpha_dropout(h.unsqueeze(0), 0.2, True)[0],
        0.3,
        True,
        True,
    ),
    "attention dropout in every mode": lambda h, m: F.scaled_dot_product_attention(h, h, h, dropout_p=0.3),
    "noise in every mode": lambda h, m: h + 0.1 * torch.randn_like(h),
    "one mask twice": mask_twice,
    "autocast": attention_under_autocast,
    "autocast off inside": no_autocast,
    "infinite": lambda h, m: h.masked_fill(h > 0.5, float("-inf")).softmax(-1),
    "not a number": lambda h, m: h.masked_fill(h > 0.9, float("nan")),
    "half": lambda h, m: (h.half() * m.low).float(),
    "bfloat16": lambda h, m: h.bfloat16() @ m.weight.bfloat16(),
    "complex": lambda h, m: torch.fft.irfft(torch.fft.rfft(h, dim=-1) * m.phases, n=WIDTH),
    "integers": lambda h, m: h * m.indices,
    "no elements": lambda h, m: torch.cat([h[..., :0], h], -1) + m.empty.sum(),
    "a gradient inside": lambda h, m: (
        3 * h**2 if not h.requires_grad else torch.autograd.grad(h.pow(3).sum(), h, create_graph=True)[0]
    ),
}

REFUSED: dict[str, tuple[Change, str]] = {
    "clipped gradient": (lambda h, m: Clipped.apply(h), "Clipped at .*not linear"),
    "hook": (
        lambda h, m: hooked(h, lambda g: g.clamp(-1e-3, 1e-3)),
        "the hook on a gradient at .*test_check",
    ),
    "python number": (numbered, "Model.number"),
    "a leaky rate drawn in every mode": (lambda h, m: F.rrelu(h, 0.1, 0.3, True), "test_check.*evaluation"),
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("training", [False, True])
def test_the_emitted_module_is_the_model(name: str, training: bool) -> None:
    original, x = Model(KEPT[name]), torch.randn(3, 7, 6)
    program = capture(original, (x,))
    assert not [note for note in program.notes if note.kind in ("mode", "unchecked")]
    for batch, length in ((3, 7), (4, 8)):
        model = Model(KEPT[name])
        model.load_state_dict(original.state_dict())
        module = emit(program.replace(tensors=program.tensors.replace(copied(program.tensors))))
        x = torch.randn(batch, length, 6)
        results = []
        for each in (model.train(training), module.train(training)):
            torch.manual_seed(1)
            result = each(x.clone())
            gradients: dict[str, Any] = {}
            if training:
                result.backward(torch.ones_like(result))
                gradients = {n: p.grad for n, p in each.named_parameters() if p.grad is not None}
            buffers = dict(each.named_buffers())
            kept = {n: buffers[n] for n, _ in original.named_buffers() if n in buffers}
            results.append((result.detach(), gradients, kept))
        torch.testing.assert_close(*results, equal_nan=True)


def copied(tensors: Any) -> dict[str, torch.Tensor]:
    made = {}
    for name, tensor in tensors.items():
        copy = tensor.detach().clone()
        kept = isinstance(tensor, nn.Parameter)
        made[name] = nn.Parameter(copy, tensor.requires_grad) if kept else copy
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_hold_is_refused_by_its_line(name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(CaptureError, match=words):
        capture(Model(change), (torch.randn(3, 7, 6),))


def test_several_outs_are_written() -> None:
    def largest(h: torch.Tensor, model: Model) -> torch.Tensor:
        values, places = torch.empty_like(h[..., :1]), torch.empty_like(h[..., :1], dtype=torch.long)
        torch.max(h.detach(), -1, True, out=(values, places))
        return h + values + places

    model, x = Model(largest), torch.randn(3, 7, 6)
    torch.testing.assert_close(emit(capture(model, (x,)))(x), model(x))


def test_a_hook_that_changes_nothing_is_noted() -> None:
    program = capture(Model(lambda h, m: hooked(h, lambda g: None)), (torch.randn(3, 7, 6),))
    assert any("hook" in note for note in program.notes if note.kind == "mode")


def test_backward_hooks_of_modules_are_refused_or_noted() -> None:
    model = Model(lambda h, m: h)
    handle = model.out.register_full_backward_hook(lambda module, given, taken: (given[0] * 0.5,))
    with pytest.raises(CaptureError, match="the backward hook of out"):
        capture(model, (torch.randn(3, 7, 6),))
    handle.remove()
    model.out.register_full_backward_hook(lambda module, given, taken: None)
    assert any("backward hook of out" in note for note in capture(model, (torch.randn(3, 7, 6),)).notes)


def test_what_training_alone_draws_is_noted() -> None:
    model = Model(lambda h, m: h + torch.randn_like(h) if m.training else h)
    (note,) = [note for note in capture(model, (torch.randn(3, 7, 6),)).notes if note.kind == "mode"]
    assert "training behaviour" in note


@pytest.mark.parametrize("name", ["cache", "counter", "assigned buffer", "power iteration", "python number"])
def test_capture_leaves_the_model_as_it_was(name: str) -> None:
    change = KEPT[name] if name in KEPT else REFUSED[name][0]
    model, x = Model(change).eval(), torch.randn(3, 7, 6)
    model.out.train()
    tensors = {n: (t, t.clone()) for n, t in model.state_dict(keep_vars=True).items()}
    modes, given, state = [m.training for m in model.modules()], x.clone(), torch.get_rng_state()
    try:
        capture(model, (x,))
    except CaptureError:
        assert name not in KEPT
    after = model.state_dict(keep_vars=True)
    assert all(after[n] is t and torch.equal(t, value) for n, (t, value) in tensors.items())
    assert all(p.grad is None for p in model.parameters())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, given)
    assert model.number == 0


def test_models_without_values_are_not_checked() -> None:
    with torch.device("meta"):
        model = Model(lambda h, m: h)
    notes = capture(model, (torch.randn(3, 7, 6, device="meta"),)).notes
    assert any("not checked" in note for note in notes)
    assert not capture(Model(lambda h, m: h), (torch.randn(3, 7, 6),), check=False).notes[1:]
