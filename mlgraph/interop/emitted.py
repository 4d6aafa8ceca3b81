"""A program's emitted module beside its graph run node by node: whether generated code does what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mlgraph.capture.check import why_not
from mlgraph.capture.state import bytes_of, copies
from mlgraph.errors import CaptureError, MlgraphError, first_line
from mlgraph.graph.compare import relative_error
from mlgraph.graph.effects import written
from mlgraph.graph.example_call import example_leaves
from mlgraph.graph.interpret import Interpretation
from mlgraph.program import Note

if TYPE_CHECKING:
    from mlgraph.program import Program

_SINGLE, _HALF = 1e-4, 5e-2
_NARROW = (torch.float16, torch.bfloat16)
# Gradients below this part of the largest one are rounding.
_NEGLIGIBLE = 1e-3
# A model with more bytes than this runs forward alone.
_LIGHT = 1 << 28
_SEED = 20240707

_Named = dict[str, Any]


def check_emitted(program: Program) -> Program:
    """The program, whose emitted module agrees with its graph on example inputs.

    Results and written tensors are compared in evaluation, and where the program is small in training too,
    with the gradients of its parameters. A note says where nothing could be emitted.

    Raises:
        CaptureError: naming the first result that differs.
    """
    from mlgraph.emit.module import emit

    if why_not(program.tensors) is not None:
        return program
    try:
        module = emit(program)
    except MlgraphError as error:
        said = f"not checked: no module can be emitted: {first_line(error)}"
        return program.replace(notes=(*program.notes, Note("unchecked", said)))
    light = bytes_of(program.tensors.values()) <= _LIGHT
    for training in (False, True) if light else (False,):
        # in float64 the module's own graph is wider than the program's
        sides = _Sides(module.program, module, training)
        if (difference := sides.difference()) is not None:
            raise CaptureError(
                f"the module emitted from {program.name} is not its graph: {difference}; this is a fault of "
                "mlgraph, please report it; check=False takes the program as it is"
            )
    return program


class _AlikeInAnyOrder(TorchDispatchMode):
    """Has every random op draw what the first of its shape draws."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            torch.manual_seed(_SEED)
        return func(*args, **(kwargs or {}))


class _Sides:
    """Both ways to run a program in one mode, from copies of what is written to and from the same seed."""

    def __init__(self, program: Program, module: nn.Module, training: bool) -> None:
        self.program, self.module, self.training = program, module, training
        tensors = program.tensors
        dirty = {str(node.target) for node in written(program.graph) if node.op == "get_attr"}
        self.kept = {n: t for n, t in tensors.items() if n in tensors.parameters and n not in dirty}
        self.copied = {n: t for n, t in tensors.items() if n not in self.kept}
        device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        self.leaves = [
            leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf for leaf in example_leaves(program)
        ]

    def difference(self) -> str | None:
        """The first thing in which the module differs from the graph, if any."""
        try:
            wanted = self._run(self._interpreted)
        except Exception:  # an op may not take what the examples are
            return None
        try:
            if next(_differences(wanted, self._run(self._emitted)), None) is None:
                return None
            # random numbers may be drawn in another order
            with _AlikeInAnyOrder():  # type: ignore[no-untyped-call]
                wanted, again = self._run(self._interpreted), self._run(self._interpreted)
                differ = next(_differences(wanted, self._run(self._emitted)), None)
        except Exception as error:  # generated code may fail in any way
            return f"it does not run: {first_line(error)}"
        # what is read before it is written is not the same twice
        return None if next(_differences(wanted, again), None) is not None else differ

    def _interpreted(self, tensors: Mapping[str, torch.Tensor], leaves: list[Any]) -> Any:
        results = Interpretation(self.program, tensors, self.training).run(leaves)
        return pytree.tree_unflatten(results, self.program.signature.out_spec)

    def _emitted(self, tensors: Mapping[str, torch.Tensor], leaves: list[Any]) -> Any:
        args, kwargs = pytree.tree_unflatten(leaves, self.program.signature.in_spec)
        self.module.train(self.training)
        return torch.func.functional_call(self.module, dict(tensors), tuple(args), dict(kwargs))

    def _run(self, forward: Callable[..., Any]) -> _Named:
        made = copies(self.copied, self.training)
        for name, tensor in self.kept.items():
            made[name] = tensor.detach().requires_grad_(self.training and tensor.requires_grad)
        leaves = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        devices = list(range(torch.cuda.device_count()))
        with torch.random.fork_rng(devices), torch.set_grad_enabled(self.training):
            torch.manual_seed(_SEED)
            flat, structure = pytree.tree_flatten(forward(made, leaves))
            named: _Named = {"the structure of results": str(structure)}
            named |= {f"result {at}": value for at, value in enumerate(flat)}
            if self.training:
                named |= _gradients(flat, made)
        named |= {f"what {name} is afterwards": made[name].detach() for name in self.copied}
        return named


def _gradients(results: list[Any], tensors: Mapping[str, torch.Tensor]) -> _Named:
    outputs = [r for r in results if isinstance(r, torch.Tensor) and r.requires_grad]
    leaves = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    if not outputs or not leaves:
        return {}
    torch.manual_seed(_SEED)
    cotangents = [torch.randn_like(output) for output in outputs]
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
    return {f"the gradient of {name}": g for name, g in zip(leaves, found, strict=True)}


def _differences(wanted: _Named, found: _Named) -> Iterator[str]:
    """What differs, in a sentence each."""
    slopes = [t.abs().max() for n, t in wanted.items() if n.startswith("the gradient") and _counts(t)]
    floor = _NEGLIGIBLE * float(max(slopes, default=0.0))
    for name, want in wanted.items():
        differ = _differ(want, found.get(name), floor if name.startswith("the gradient") else 0.0)
        if differ is not None:
            yield f"{name} {differ}"


def _counts(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and value.numel() > 0


def _differ(want: Any, have: Any, floor: float) -> str | None:
    if not isinstance(want, torch.Tensor) or not isinstance(have, torch.Tensor):
        same = type(want) is type(have) and (want == have or want != want)
        return None if same else f"is {have!r} instead of {want!r}"
    want, have = (t.detach() if t.layout is torch.strided else t.detach().to_dense() for t in (want, have))
    if want.dtype is not have.dtype:
        return f"is {have.dtype} instead of {want.dtype}"
    if want.shape != have.shape:
        return f"has shape {list(have.shape)} instead of {list(want.shape)}"
    if torch.equal(want, have):
        return None
    if not (want.is_floating_point() or want.is_complex()):
        return f"differs in {int((want != have).sum())} of {want.numel()} values"
    error = relative_error(have, want)
    if floor and error < float("inf"):
        largest = float(want.abs().max())
        error *= largest / max(largest, floor)
    if error <= (_HALF if want.dtype in _NARROW else _SINGLE):
        return None
    return f"differs by {error:.1e} of its size"
