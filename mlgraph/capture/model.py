"""From an ``nn.Module`` to a program, by torch.export."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.capture.export import Call, Exported, export, has_values
from mlgraph.capture.importer import import_graph
from mlgraph.capture.inputs.caches import without_caches
from mlgraph.capture.inputs.example import example_inputs, needs_inputs
from mlgraph.capture.normalize.pipeline import normalize
from mlgraph.capture.signature import signature_of, with_guards
from mlgraph.capture.submodules import called_with, stand_in, submodule
from mlgraph.capture.wrappers import unwrapped
from mlgraph.errors import CaptureError
from mlgraph.graph.effects import written
from mlgraph.graph.interpret import run
from mlgraph.graph.propagate import propagate
from mlgraph.program import Note, Program, Tensors
from mlgraph.program.tensors import InMemory, is_fake

aten = torch.ops.aten


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = "auto",
    name: str | None = None,
    module: str | None = None,
) -> Program:
    """The program that ``model`` runs on the example ``args`` and ``kwargs``.

    The graph has training semantics and shares the model's parameters and buffers; the model itself is left
    as it was. A transformers or timm model makes example inputs of its own. ``dynamic_shapes`` is what
    ``torch.export.export`` takes, or ``"auto"``: every size that the model allows to vary does, and the
    program's notes name those that do not. With ``module``, the path of a submodule, the program is that of
    the submodule on what the whole model gives it, and its inputs and outputs keep their widths, so that
    ``emit(program, into=model)`` can put it back. Raises ``CaptureError`` with the line of the model's source
    that stands in the way.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"{type(model).__name__} is not a module; pass an nn.Module, a file or a directory"
        )
    model, notes = unwrapped(model)
    known = getattr(model, "program", None)
    if isinstance(known, Program):
        return known
    if not args and not kwargs and needs_inputs(model):
        args, kwargs = example_inputs(model)
    call, more = without_caches(model, _bind(model, args, dict(kwargs or {})))
    name = name or type(model).__name__
    if module is not None:
        program = _part(model, module, call, dynamic_shapes, f"{name}.{module}")
    else:
        program = _whole(model, call, dynamic_shapes, name)
    return program.replace(notes=(*notes, *more, *program.notes))


def _whole(model: nn.Module, call: Call, dynamic_shapes: Any, name: str) -> Program:
    with _preserved(model), torch.enable_grad():
        try:
            exported = export(model, call, dynamic_shapes)
        except CaptureError as error:
            raise CaptureError(f"{error}{stand_in(model, call, error.__cause__ or error)}") from error
        program = _program(model, exported, name)
        if not has_values(model):
            return program
        difference = _evaluates_differently(model, program, exported.call)
        if difference is None:
            return program
        exported = export(model, call, dynamic_shapes, training=False)
        program = _with_modes(model, _program(model, exported, name))
    said = f"training behaviour other than dropout and batch norm is not preserved: {difference}"
    return program.replace(notes=(*program.notes, Note("mode", said)))


def _part(model: nn.Module, path: str, call: Call, dynamic_shapes: Any, name: str) -> Program:
    """The program of a submodule, on what it is given when the whole model runs."""
    part = submodule(model, path)
    with _preserved(model):
        given, times = called_with(model, path, call)
    program = _whole(part, _bind(part, given.args, given.kwargs), dynamic_shapes, name)
    said = f"{path} is called {times} times; the program is that of its first call"
    notes = () if times == 1 else (Note("call", said, path),)
    return program.replace(notes=(*program.notes, *notes), submodule=path)


def _bind(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Positional arguments by name, where forward names them; every tensor a distinct object."""
    parameters = inspect.signature(model.forward).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters.values() if p.kind in kinds]
    positional = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if len(args) <= len(positional):
        named = dict(zip(positional, args, strict=False))
        clash = named.keys() & kwargs.keys()
        if clash:
            raise CaptureError(f"argument {min(clash)} is given both by position and by name; give it once")
        given = named | kwargs
        kwargs = {k: given[k] for k in names if k in given} | {
            k: v for k, v in given.items() if k not in names
        }
        args = ()
    seen: set[int] = set()

    def distinct(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            if id(leaf) in seen:
                return leaf.detach().clone()
            seen.add(id(leaf))
            # strides of an example say nothing about those of other inputs
            return leaf.contiguous()
        return leaf

    args, kwargs = pytree.tree_map(distinct, (args, kwargs))
    return Call(args, kwargs, tuple(names))


@contextlib.contextmanager
def _preserved(model: nn.Module) -> Iterator[None]:
    """Leave modes, buffers, plain attributes and the random state as they were."""
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    values = {id(b): (b, b.detach().clone()) for b in model.buffers() if not is_fake(b)}
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, attribute, buffer in zip(modules, attributes, buffers, strict=True):
                module.__dict__.clear()
                module.__dict__.update(attribute)
                module._buffers.clear()
                module._buffers.update(buffer)
            _restore(values.values())


@torch.no_grad()
def _restore(values: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for tensor, value in values:
        if not torch.equal(tensor, value):
            tensor.copy_(value)


def _evaluates_differently(model: nn.Module, program: Program, call: Call) -> str | None:
    """How evaluation of the model differs from that of its program, if it does."""
    model.eval()
    with torch.no_grad():
        expected = model(*call.args, **call.kwargs)
        found = run(program, call.args, call.kwargs)
    wanted, structure = pytree.tree_flatten(expected)
    got, other = pytree.tree_flatten(found)
    if structure != other:
        return "in evaluation the model returns another structure"
    for want, have in zip(wanted, got, strict=True):
        if not isinstance(want, torch.Tensor):
            continue
        if want.shape != have.shape:
            return "in evaluation the model returns other sizes"
        if not torch.allclose(want, have, rtol=1e-2, atol=1e-3 * _scale(want), equal_nan=True):
            error = (want.double() - have.double()).abs().max().item()
            return f"in evaluation the model's results differ by {error:.3g} from those of its training graph"
    return None


def _scale(tensor: torch.Tensor) -> float:
    finite = tensor.double().nan_to_num(0.0, 0.0, 0.0)
    return finite.abs().max().item() if tensor.numel() else 0.0


def _with_modes(model: nn.Module, program: Program) -> Program:
    """A program captured in evaluation with its dropout and batch norm following the mode again."""
    modules = dict(model.named_modules())
    for node in program.graph.nodes:
        module = modules.get(str(node.meta.get("module")))
        statistics = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        if node.target is aten.dropout.default:
            node.args = (*node.args[:2], True)
        elif node.target is aten.batch_norm.default and statistics:
            node.args = (*node.args[:5], True, *node.args[6:])
    return program


def _program(model: nn.Module, exported: Exported, name: str) -> Program:
    tensors, canonical = _tensors(model)
    taken = {*tensors, *tensors.aliases, *(path for path, _ in model.named_modules())}

    def constant_name(module: str, label: str) -> str:
        prefix = f"{module}." if module else ""
        fresh = f"{prefix}{label}"
        while fresh in taken:
            fresh += "_"
        taken.add(fresh)
        return fresh

    graph, constants = import_graph(exported.program, canonical, constant_name)
    fixed = {n: t for n, t in tensors.items() if n not in tensors.persistent | _written_names(graph)}
    trained = {n for n, t in tensors.items() if n in tensors.parameters or t.requires_grad}
    constants |= normalize(graph, fixed | constants, trained, constant_name)
    constants = {key: value.detach() for key, value in constants.items()}
    tensors = tensors.replace({**tensors, **constants})
    signature, sizes = signature_of(exported.call, exported.program, graph)
    propagate(graph, signature, tensors)
    program = Program(graph, tensors, signature, name, notes=exported.notes)
    return with_guards(program, exported, sizes, model)


def _written_names(graph: fx.Graph) -> set[str]:
    return {str(node.target) for node in written(graph) if node.op == "get_attr"}


def _tensors(model: nn.Module) -> tuple[Tensors, dict[str, str]]:
    """The model's tensors by their first name, and every name's first name."""
    first: dict[int, str] = {}
    values: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    parameters: set[str] = set()
    persistent: set[str] = set()
    for full, tensor, is_parameter, is_persistent in _held(model):
        if id(tensor) in first:
            aliases[full] = first[id(tensor)]
        else:
            first[id(tensor)] = full
            values[full] = tensor
            if is_parameter:
                parameters.add(full)
        if is_persistent:
            persistent.add(full)
    canonical = {name: name for name in values} | aliases
    frozen = frozenset(name for name in parameters if not values[name].requires_grad)
    tensors = Tensors(InMemory(values), frozenset(parameters), frozenset(persistent), aliases, frozen=frozen)
    return tensors, canonical


def _held(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, bool, bool]]:
    """Every name of every tensor, and whether it is a parameter, and in the state dict."""
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for key, tensor in module._parameters.items():
            if tensor is not None:
                yield prefix + key, tensor, True, True
        for key, tensor in module._buffers.items():
            if tensor is not None:
                yield prefix + key, tensor, False, key not in module._non_persistent_buffers_set
