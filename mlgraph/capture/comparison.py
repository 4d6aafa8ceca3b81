"""A program beside the model it was captured from: results, gradients and buffers on one call.

Both run on copies of the model's tensors and of the inputs, from the same random state, so that neither sees
what the other wrote, and nothing of the user's is changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.capture.data_attribute import DataDetached
from mlgraph.capture.gradients import without_checkpoints
from mlgraph.capture.state import State, bytes_of, copies, sharing
from mlgraph.errors import first_line
from mlgraph.graph.interpret import Interpretation, double

if TYPE_CHECKING:
    from mlgraph.capture.export import Call
    from mlgraph.program import Program

# Relative errors that rounding explains, where the same operators run in the same order.
_TOLERANCE = {torch.float64: 1e-10, torch.complex128: 1e-10, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_SINGLE = 1e-5
# Gradients that are zero but for rounding are compared on the scale of the largest one.
_NEGLIGIBLE = 1e-1
_SEED = 20240707
# A difference up to here may be rounding, which float64 tells apart: there no more than this is left of it.
_SUSPICIOUS = 1e-3
_ROUNDED = 1e-6
# Where float64 cannot be tried (a model with more bytes than this, or dtypes of its own), this is let pass.
_DOUBLED = 1 << 28
_UNSEEN = 1e-4

_Found = tuple[float, str]


@dataclass(frozen=True)
class Difference:
    """One thing in which a program is not its model.

    ``kind`` is ``"structure"``, ``"output"``, ``"gradient"``, ``"buffer"`` or ``"error"`` (the program does
    not run where the model does); ``what`` names the result or tensor; ``text`` says how they differ, and
    ``size`` by how much of the tensor's size, infinite where it is no matter of numbers.
    """

    kind: str
    what: str
    text: str
    size: float = math.inf

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Outcome:
    """What one run gave: its value, gradients by name, and written tensors as they are afterwards.

    ``changed`` is what a model keeps besides tensors and is not as before.
    """

    value: Any
    gradients: Mapping[str, torch.Tensor | None]
    written: Mapping[str, torch.Tensor]
    changed: Sequence[str] = ()


class CannotRun(Exception):
    """The model itself does not run on a call."""


class Comparison:
    """A model, and programs of it, on copies of the model's tensors.

    ``tensors`` are the model's own under the names that its programs give them.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        self.model, self.tensors = model, tensors
        self._state = State(model)
        self._trains = {module: module.training for module in model.modules()}
        self._known: list[tuple[Call, bool, Outcome]] = []
        self._kept: dict[int, tuple[torch.Tensor, int]] = {}

    def trains_as_now(self) -> None:
        """Let training mean the modes that the model's modules are in."""
        self._trains = {module: module.training for module in self.model.modules()}

    def differences(self, program: Program, call: Call, training: bool) -> list[Difference]:
        """How a program differs from the model on one call. Raises CannotRun."""
        wanted = self.outcome(call, training)
        try:
            # a program shares its model's buffers
            with self._model_as_it_was(training):
                found = _run_program(program, self._copies(program.tensors, training), call, training)
        except Exception as error:  # whatever stands in the way of the program
            return [Difference("error", "", f"its program does not run: {first_line(error)}")]
        differences = list(_compare(wanted, found, self.tensors))
        worst = max((difference.size for difference in differences), default=0.0)
        return [] if worst and self._is_rounding(program, call, training, worst) else differences

    def gradients_in_evaluation(self, program: Program, call: Call) -> list[Difference]:
        """How gradients differ in evaluation, where they may be others than in training. Raises CannotRun."""
        try:
            with self._model_as_it_was(training=False):
                wanted = self._run(call, training=False, gradients=True)
        except Exception as error:
            raise CannotRun(first_line(error)) from error
        try:
            with self._model_as_it_was(training=False):
                made = self._copies(program.tensors, True)
                found = _run_program(program, made, call, training=False, gradients=True)
        except Exception:  # without gradients it does run
            return []
        return [
            d for d in _compare(wanted, found, self.tensors) if d.kind == "gradient" and d.size > _SUSPICIOUS
        ]

    def _is_rounding(self, program: Program, call: Call, training: bool, worst: float) -> bool:
        """Whether differences of at most ``worst`` are gone in float64, where that can be seen."""
        if worst > _SUSPICIOUS:
            return False
        if bytes_of(self.tensors.values()) > _DOUBLED:
            return worst <= _UNSEEN
        usual = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            with self._model_as_it_was(training):
                wanted = self._run(call.map(double), training, widened=True)
            with self._model_as_it_was(training):
                made = copies(program.tensors, training, double)
                found = _run_program(program, made, call.map(double), training, widened=True)
            left = [difference.size for difference in _compare(wanted, found, self.tensors)]
        except Exception:  # a model that names its dtypes may not run in another
            return worst <= _UNSEEN
        finally:
            torch.set_default_dtype(usual)
        return max(left, default=0.0) <= _ROUNDED

    def outcome(self, call: Call, training: bool, again: bool = False) -> Outcome:
        """What the model itself gives on a call; the last ones are remembered, unless it is to run ``again``.

        Raises CannotRun.
        """
        for known, mode, outcome in self._known:
            if known is call and mode is training and not again:
                return outcome
        with self._model_as_it_was(training):
            try:
                outcome = self._run(call, training)
            except Exception as error:  # a model may raise anything on sizes that it does not take
                raise CannotRun(first_line(error)) from error
        self._known = [*self._known[-1:], (call, training, outcome)]
        return outcome

    def unsteady(self, call: Call, training: bool) -> list[str]:
        """What the model changed, where a second run on the same call, from the same tensors, differs.

        Raises CannotRun.
        """
        changed = [*self.outcome(call, training).changed]
        if not changed:
            return []
        with self._model_as_it_was(training):
            first, second = (self._run(call, training) for _ in range(2))
        return changed if list(_compare(first, second, self.tensors)) else []

    def _run(self, call: Call, training: bool, widened: bool = False, gradients: bool = False) -> Outcome:
        gradients = gradients or training
        made = copies(self.tensors, gradients, double) if widened else self._copies(self.tensors, gradients)
        if training:
            _hook_alike(made, self.tensors)

        def forward(given: Call) -> Any:
            # reentrant ones allow no gradients of chosen tensors
            with DataDetached(), without_checkpoints() if gradients else contextlib.nullcontext():
                return torch.func.functional_call(self.model, made, given.args, given.kwargs)

        outcome = _outcome(forward, made, call, gradients)
        return dataclasses.replace(outcome, changed=self._state.changed())

    def _copies(self, tensors: Mapping[str, torch.Tensor], training: bool) -> dict[str, torch.Tensor]:
        """Copies of tensors to run on; those of parameters serve again until something writes to them."""
        self._kept = {key: (t, version) for key, (t, version) in self._kept.items() if t._version == version}
        joint = {name for names in sharing(tensors) for name in names}
        alone = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter) and n not in joint}
        made = copies({n: t for n, t in tensors.items() if n not in alone}, training)
        for name, tensor in alone.items():
            if id(tensor) not in self._kept:
                copy = tensor.detach().clone()
                self._kept[id(tensor)] = copy, copy._version
            made[name] = self._kept[id(tensor)][0].detach().requires_grad_(training and tensor.requires_grad)
        return made

    @contextlib.contextmanager
    def _model_as_it_was(self, training: bool) -> Iterator[None]:
        modes = {module: module.training for module in self.model.modules()}
        self._state.restore()
        if not training:
            self.model.eval()
        else:
            _set_modes(self._trains)
        try:
            yield
        finally:
            self._state.restore()
            _set_modes(modes)


def _hook_alike(made: Mapping[str, torch.Tensor], originals: Mapping[str, torch.Tensor]) -> None:
    """Give copies of tensors the hooks on what flows back to the originals."""
    for name, tensor in originals.items():
        for hook in (tensor._backward_hooks or {}).values():
            if made[name].requires_grad:
                made[name].register_hook(hook)  # type: ignore[no-untyped-call]


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


class _DrawnAlike(Interpretation):
    """A run that draws stochastic depth from the random numbers from which the model draws it."""

    def _call(self, node: fx.Node, env: Mapping[fx.Node, Any], device: torch.device) -> Any:
        rule = node.meta.get("draw")
        if not self.training or not rule:
            return super()._call(node, env, device)
        source, p, dims, _ = cast("tuple[Any, ...]", node.args)
        x = env[source]
        drawn = torch.rand([n if d in dims else 1 for d, n in enumerate(x.shape)], device=device)
        kept = drawn >= p if rule == "above" else drawn < 1.0 - p
        return x * (kept.to(x.dtype) / (1.0 - p))


def _run_program(
    program: Program,
    made: dict[str, torch.Tensor],
    call: Call,
    training: bool,
    widened: bool = False,
    gradients: bool = False,
) -> Outcome:
    def forward(given: Call) -> Any:
        results = _DrawnAlike(program, made, training, widened).run(given.leaves())
        return pytree.tree_unflatten(results, program.signature.out_spec)

    return _outcome(forward, made, call, gradients or training)


def _outcome(
    forward: Callable[[Call], Any], held: dict[str, torch.Tensor], call: Call, gradients: bool
) -> Outcome:
    """What a run gives; ``held`` are the tensors that it runs on."""
    start = dict(held)
    versions = {name: tensor._version for name, tensor in start.items()}
    with (
        torch.random.fork_rng(list(range(torch.cuda.device_count()))),
        torch.set_grad_enabled(gradients),
    ):
        torch.manual_seed(_SEED)
        leaves, given = _given(call, gradients)
        value = forward(given)
        slopes = _gradients(pytree.tree_leaves(value), start, leaves) if gradients else {}
    written = {
        n: held[n].detach()
        for n, tensor in start.items()
        if held[n] is not tensor or tensor._version > versions[n]
    }
    return Outcome(value, slopes, written)


def _given(call: Call, training: bool) -> tuple[dict[str, torch.Tensor], Call]:
    """The call on copies; in training the floating-point ones are results of leaves, which are returned."""
    leaves: dict[str, torch.Tensor] = {}

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        copy = leaf.detach().clone()
        if not training or not (copy.is_floating_point() or copy.is_complex()):
            return copy
        leaves[f"input {len(leaves)}"] = copy.requires_grad_()
        return copy.clone()

    return leaves, call.map(fresh)


def _gradients(
    results: list[Any], held: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | None]:
    """The gradients of all that takes one, for random cotangents of the results."""
    leaves = {name: tensor for name, tensor in {**held, **inputs}.items() if tensor.requires_grad}
    outputs = [r for r in results if isinstance(r, torch.Tensor) and r.requires_grad]
    if not outputs or not leaves:
        return dict.fromkeys(leaves)
    torch.manual_seed(_SEED + 1)
    cotangents = [torch.randn_like(output) for output in outputs]
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def _compare(wanted: Outcome, found: Outcome, tensors: Mapping[str, torch.Tensor]) -> Iterator[Difference]:
    wants, structure = pytree.tree_flatten(wanted.value)
    has, other = pytree.tree_flatten(found.value)
    if structure != other:
        yield Difference("structure", "", "the model returns another structure")
        return
    for at, (want, have) in enumerate(zip(wants, has, strict=True)):
        if (differ := _differ(want, have, 0.0)) is not None:
            yield Difference("output", f"result {at}", f"result {at} {differ[1]}", differ[0])
        elif isinstance(want, torch.Tensor) and want.requires_grad != have.requires_grad:
            which = "model" if want.requires_grad else "program"
            yield Difference("gradient", f"result {at}", f"result {at} takes a gradient in the {which} alone")
    yield from _compare_gradients(wanted.gradients, found.gradients)
    for name in [n for n in tensors if n in wanted.written or n in found.written]:
        differ = _differ(wanted.written.get(name, tensors[name]), found.written.get(name, tensors[name]), 0.0)
        if differ is not None:
            yield Difference("buffer", name, f"{name}, which the model writes, {differ[1]}", differ[0])


def _compare_gradients(
    wanted: Mapping[str, torch.Tensor | None], found: Mapping[str, torch.Tensor | None]
) -> Iterator[Difference]:
    largest = None
    for name, want in wanted.items():
        have = found.get(name)
        if want is not None and have is not None:
            if want.layout is have.layout is torch.strided and torch.equal(want, have):
                continue
            if largest is None:
                largest = max(_scale(g) for g in wanted.values() if g is not None)
            differ = _differ(want, have, _NEGLIGIBLE * largest)
            if differ is not None:
                yield Difference("gradient", name, f"the gradient of {name} {differ[1]}", differ[0])
            continue
        present = want if have is None else have
        # none and zeros train alike
        if present is not None and _scale(present) != 0.0:
            which = "missing in the program" if have is None else "missing in the model"
            yield Difference("gradient", name, f"the gradient of {name} is {which}")


def _differ(want: Any, have: Any, floor: float) -> _Found | None:
    """How two values differ, if rounding does not explain it; ``floor`` is the least scale of errors."""
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        same = type(want) is type(have) and (want == have or (want != want and have != have))
        return None if same else (math.inf, f"is {have!r} instead of {want!r}")
    if want.dtype is not have.dtype:
        return math.inf, f"is {_short(have.dtype)} instead of {_short(want.dtype)}"
    if want.shape != have.shape:
        return math.inf, f"has shape {list(have.shape)} instead of {list(want.shape)}"
    if want.layout is not have.layout:
        return math.inf, f"is {have.layout} instead of {want.layout}"
    want, have = (t.detach() if t.layout is torch.strided else t.detach().to_dense() for t in (want, have))
    if want.device != have.device or want.numel() == 0 or torch.equal(want, have):
        return None
    if not (want.is_floating_point() or want.is_complex()):
        return math.inf, f"differs in {int((want != have).sum())} of {want.numel()} values"
    if want.is_complex():
        want, have = torch.view_as_real(want), torch.view_as_real(have)
    regular = want.isfinite() & have.isfinite()
    same = regular | (want == have) | (want.isnan() & have.isnan())
    if not bool(same.all()):
        return math.inf, f"differs in {int((~same).sum())} values that are not finite"
    scale = max(_scale(want), floor)
    zero = torch.zeros((), dtype=want.dtype, device=want.device)
    error = torch.where(regular, want - have, zero).abs().max().double().item()
    if error <= _TOLERANCE.get(want.dtype, _SINGLE) * scale:
        return None
    return (
        (error / scale, f"differs by {error / scale:.2g} of its size")
        if scale
        else (math.inf, f"differs by {error:.2g}")
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _scale(tensor: torch.Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    values = tensor.detach().abs()
    values = values if values.layout is torch.strided else values.to_dense()
    return values.nan_to_num(0.0, 0.0, 0.0).max().double().item()
