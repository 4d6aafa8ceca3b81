"""From an ``nn.Module`` to a program, by torch.export."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.capture.check import Made, checked, why_not
from mlgraph.capture.comparison import Comparison
from mlgraph.capture.export import Call, Exported, SizesError, export
from mlgraph.capture.importer import import_graph
from mlgraph.capture.inputs.caches import without_caches
from mlgraph.capture.inputs.example import example_inputs, needs_inputs
from mlgraph.capture.normalize.modes import follow_modes
from mlgraph.capture.normalize.pipeline import normalize
from mlgraph.capture.signature import signature_of, with_guards
from mlgraph.capture.state import overlapping, preserved
from mlgraph.capture.submodules import called_with, stand_in, submodule
from mlgraph.capture.wrappers import hooks_given_as_called, refuse_what_cannot_be_read, unwrapped
from mlgraph.errors import CaptureError, first_line
from mlgraph.graph.effects import written
from mlgraph.graph.propagate import propagate
from mlgraph.program import Note, Program, Tensors
from mlgraph.program.tensors import InMemory


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = "auto",
    name: str | None = None,
    module: str | None = None,
    check: bool = True,
) -> Program:
    """The program that ``model`` runs on the example ``args`` and ``kwargs``.

    The graph has training semantics and shares the model's parameters and buffers; the model itself is left
    as it was. A transformers or timm model makes example inputs of its own. ``dynamic_shapes`` is what
    ``torch.export.export`` takes, or ``"auto"``: every size that the model allows to vary does, and the
    program's notes name those that do not. With ``module``, the path of a submodule, the program is that of
    the submodule on what the whole model gives it, and its inputs and outputs keep their widths, so that
    ``emit(program, into=model)`` can put it back.

    With ``check``, model and program run side by side on the example and at other sizes, in evaluation and in
    training: results, gradients and written buffers must agree. A size at which they do not is fixed; what
    else differs is refused, or said in the notes where it is known why. The notes say where nothing was
    checked, as of a model without values.

    Raises:
        CaptureError: naming the line of the model's source that stands in the way, or what differs.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"{type(model).__name__} is not a module; pass an nn.Module, a file or a directory"
        )
    refuse_what_cannot_be_read(model)
    model, notes = unwrapped(model)
    known = getattr(model, "program", None)
    if isinstance(known, Program):
        return known
    _refuse_other_forms(args, kwargs)
    with preserved(model):
        if not args and not kwargs and needs_inputs(model):
            args, kwargs = example_inputs(model)
        call, more = without_caches(model, _bind(model, tuple(args), dict(kwargs or {})))
    name = name or type(model).__name__
    if module is not None:
        program = _part(model, module, call, dynamic_shapes, f"{name}.{module}", check)
    else:
        program = _whole(model, call, dynamic_shapes, name, check)
    return program.replace(notes=(*notes, *more, *program.notes))


def capture_unchecked(
    model: nn.Module, call: tuple[tuple[Any, ...], Mapping[str, Any]], dynamic_shapes: Any, training: bool
) -> Program:
    """The program that ``model`` runs in training, or in evaluation, held against nothing."""
    with preserved(model):
        bound, _ = without_caches(model, _bind(model, call[0], dict(call[1])))

    def rehearse() -> None:
        model.eval()(*bound.args, **bound.kwargs)

    with preserved(model) as state, torch.enable_grad(), hooks_given_as_called(model, bound):
        exported = export(model, bound, dynamic_shapes, training, rehearse, state)
        return _program(model, exported, type(model).__name__, training)


def refilled(program: Program, model: nn.Module, module: str | None = None) -> Program | None:
    """The program of a model like ``model``, or of its submodule, with the tensors of this one.

    None where names, shapes or dtypes of its state dict differ.
    """
    model, _ = unwrapped(model)
    live, _ = _tensors(model if module is None else submodule(model, module))
    kept = program.tensors.meta()
    alike = {n: n in live.source and _alike(live.source[n], meta) for n, meta in kept.items()}
    if not all(same for name, same in alike.items() if name in program.tensors.persistent):
        return None
    values = {name: live.source[name] if same else program.tensors[name] for name, same in alike.items()}
    return program.with_values(program.tensors.replace(values))


def _alike(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.shape == other.shape and tensor.dtype == other.dtype


def _whole(model: nn.Module, call: Call, dynamic_shapes: Any, name: str, check: bool) -> Program:
    tensors, _ = _tensors(model)
    with preserved(model) as state, torch.enable_grad(), hooks_given_as_called(model, call):
        comparison = Comparison(model, tensors)
        tried = why_not(tensors) if check else "check=False"

        def rehearse() -> None:
            if tried is None:
                written = comparison.outcome(call, training=False, again=True).written
                state.hold(tensors[name] for name in written)
            else:
                model.eval()(*call.args, **call.kwargs)

        def captured(training: bool) -> Made:
            exported = export(model, call, dynamic_shapes, training, rehearse, state)
            if training:
                comparison.trains_as_now()
            program = _program(model, exported, name, training)
            own = exported.gradients
            return Made(program, exported.call, [*own.functions.values()], [*own.hooks.values()])

        try:
            made = captured(training=True)
        except SizesError:
            raise
        except CaptureError as error:
            raise CaptureError(f"{error}{stand_in(model, call, error.__cause__ or error)}") from error
        if tried is None:
            return checked(comparison, made, lambda: captured(training=False))
        said = [*([tried] if check else []), *made.functions, *made.hooks]
        notes = [Note("unchecked", f"not checked: {text}") for text in said]
        return made.program.replace(notes=(*made.program.notes, *notes))


def _part(model: nn.Module, path: str, call: Call, dynamic_shapes: Any, name: str, check: bool) -> Program:
    """The program of a submodule, on what it is given when the whole model runs."""
    part = submodule(model, path)
    with preserved(model):
        given, times = called_with(model, path, call)
    program = _whole(part, _bind(part, given.args, given.kwargs), dynamic_shapes, name, check)
    said = f"{path} is called {times} times; the program is that of its first call"
    notes = () if times == 1 else (Note("call", said, path),)
    return program.replace(notes=(*program.notes, *notes), submodule=path)


def _refuse_other_forms(args: Any, kwargs: Any) -> None:
    """Raise CaptureError for arguments that are not all positional ones, or all named ones, together."""
    if not isinstance(args, tuple | list):
        instead = "pass it as kwargs" if isinstance(args, Mapping) else "write args=(x,)"
        raise CaptureError(
            f"args is a {type(args).__name__}, and must be a tuple of the positional arguments: {instead}"
        )
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(k, str) for k in kwargs)):
        raise CaptureError("kwargs must be a dict from the names of arguments to their values")


def _bind(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Positional arguments by name, where forward names them; every tensor a distinct object."""
    signature = inspect.signature(model.forward)
    parameters = signature.parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters.values() if p.kind in kinds]
    positional = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    by_position: tuple[str, ...] = ()
    nameless = any(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in parameters.values())
    if len(args) <= len(positional) and not nameless:
        named = dict(zip(positional, args, strict=False))
        by_position = tuple(named)
        clash = named.keys() & kwargs.keys()
        if clash:
            raise CaptureError(f"argument {min(clash)} is given both by position and by name; give it once")
        given = named | kwargs
        kwargs = {k: given[k] for k in names if k in given} | {
            k: v for k, v in given.items() if k not in names
        }
        args = ()
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"{type(model).__name__} does not take these arguments: {first_line(error)}; "
            f"its forward takes {signature.replace(return_annotation=signature.empty)}"
        ) from None
    seen: set[int] = set()

    def distinct(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            if leaf.is_nested:
                raise CaptureError(
                    "an argument is a nested tensor, whose sizes differ from row to row, which a graph "
                    "cannot hold; pad it"
                )
            if id(leaf) in seen:
                return leaf.detach().clone()
            seen.add(id(leaf))
            # strides of an example say nothing about those of other inputs
            return leaf.contiguous()
        return leaf

    args, kwargs = pytree.tree_map(distinct, (args, kwargs))
    return Call(args, kwargs, tuple(names), by_position)


def _program(model: nn.Module, exported: Exported, name: str, training: bool) -> Program:
    """The program of an exported model; one exported in evaluation follows the mode where modules do."""
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
    notes = (*exported.notes, *_in_the_same_bytes(graph, tensors), *_beside_tensors(model, tensors))
    if not training:
        follow_modes(graph, dict(model.named_modules()))
    changing = tensors.persistent | _written_names(graph)
    fixed = {n: t for n, t in tensors.items() if n not in changing}
    trained = {n for n, t in tensors.items() if n in tensors.parameters or t.requires_grad}
    constants |= normalize(graph, fixed | constants, trained, constant_name, training)
    constants = {key: value.detach() for key, value in constants.items()}
    tensors = tensors.replace({**tensors, **constants})
    signature, sizes = signature_of(exported.call, exported.program, graph)
    propagate(graph, signature, tensors)
    program = Program(graph, tensors, signature, name, notes=notes)
    return with_guards(program, exported, sizes, model)


def _in_the_same_bytes(graph: fx.Graph, tensors: Tensors) -> list[Note]:
    """Notes on tensors that overlap. Raises CaptureError where the graph writes to one of them."""
    dirty = _written_names(graph)
    notes = []
    for names in overlapping(tensors):
        listed = " and ".join(names)
        if written := [name for name in names if name in dirty]:
            raise CaptureError(
                f"{listed} lie in the same memory, and the model writes to {written[0]}; hold one of them "
                "and take the others as views of it in forward"
            )
        said = f"{listed} lie in the same memory, which files and changes of width or depth do not keep so"
        notes.append(Note("weights", said, names[0]))
    return notes


def _beside_tensors(model: nn.Module, tensors: Tensors) -> list[Note]:
    """A note on entries of the model's state dict that are no tensors of its modules."""
    more = [key for key in model.state_dict() if key not in tensors.persistent]
    if not more:
        return []
    listed = f"{more[0]}{f' and {len(more) - 1} more' if len(more) > 1 else ''}"
    said = f"the model's state dict has {listed}, which is no parameter or buffer and not part of the program"
    return [Note("weights", said, more[0])]


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
