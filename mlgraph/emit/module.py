"""From a program to an executable ``nn.Module``."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import fx, nn

from mlgraph.emit.calling import broken_guard, entry_source, result_source
from mlgraph.emit.casts import Casts, follow_casts
from mlgraph.emit.codegen import BodyWriter
from mlgraph.emit.outline import Body, outline
from mlgraph.emit.pickling import PackedProgram, pack
from mlgraph.emit.places import Places, bodies, module_tree
from mlgraph.emit.precision import holds_double, widen, with_dtype
from mlgraph.emit.runtime import GLOBALS, Holder, Outlined, outlined
from mlgraph.errors import MlgraphError, first_line
from mlgraph.graph.ops import op_name
from mlgraph.program import require_program

if TYPE_CHECKING:
    from mlgraph.program import Program, Tensors


class EmittedBlock(Outlined):
    """One block of a chain, at its original path."""


class EmittedModule(Outlined):
    """An executable model made from a program.

    It takes the original's arguments, by position or by name, and returns its output structure. Parameters
    and buffers have their original names and are those of its program: see :attr:`program`.
    """

    _program: Program

    @property
    def program(self) -> Program:
        """The program that this module runs, with the module's present parameters and buffers."""
        program = self._program
        values = {}
        for name in program.tensors:
            owner, _, leaf = name.rpartition(".")
            holder = self.get_submodule(owner) if owner else self
            values[name] = getattr(holder, leaf)
        frozen = frozenset(n for n in program.tensors.parameters if not values[n].requires_grad)
        return program.replace(tensors=dataclasses.replace(program.tensors.replace(values), frozen=frozen))

    def __deepcopy__(self, memo: dict[int, Any]) -> EmittedModule:
        fresh = type(self).__new__(type(self))
        memo[id(self)] = fresh
        for key, value in self.__dict__.items():
            if key not in ("_program", "_compiled_call_impl"):
                fresh.__dict__[key] = copy.deepcopy(value, memo)
        program = self.program
        values = copy.deepcopy(dict(program.tensors.items()), memo)
        fresh._program = program.replace(tensors=program.tensors.replace(values))
        return fresh

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments, state = super().__reduce__()
        return make, arguments, {**state, "_program": pack(self.program)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed: PackedProgram = state["_program"]
        super().__setstate__({**state, "_program": packed.unpack()})  # type: ignore[no-untyped-call]

    def _refuse(self, argument: str, why: str) -> None:
        """Raise for an argument that the captured graph cannot take."""
        raise MlgraphError(f"argument {argument} {why}")

    def _refuse_value(self, argument: str, value: object) -> None:
        """Raise for an argument that is no tensor, where the captured graph takes one."""
        missing = "is missing; the model was captured with it"
        self._refuse(
            argument, missing if value is None else f"must be a tensor, not a {type(value).__name__}"
        )

    def _refuse_sizes(self, sizes: Mapping[str, int]) -> None:
        """Raise for sizes that break a guard of the captured graph."""
        self._refuse(*broken_guard(self._program.signature, sizes))


@overload
def emit(
    program: Program,
    device: torch.device | str | None = ...,
    dtype: torch.dtype | None = ...,
    compile: bool = ...,
    into: None = ...,
) -> EmittedModule: ...
@overload
def emit(
    program: Program,
    device: torch.device | str | None = ...,
    dtype: torch.dtype | None = ...,
    compile: bool = ...,
    *,
    into: nn.Module,
) -> nn.Module: ...
def emit(
    program: Program,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compile: bool = False,
    into: nn.Module | None = None,
) -> nn.Module:
    """An executable module that runs ``program`` and shares its parameters and buffers.

    With another ``device`` or ``dtype`` tensors are converted as ``module.to`` converts them, and those that
    change are shared with the module's own :attr:`EmittedModule.program` instead. ``compile`` compiles the
    module on its first call. A float64 module computes in float64 throughout, casts to float32 included.
    Dropout, attention dropout, stochastic depth and batch norm follow ``train()`` and ``eval()``; a new
    module is in training mode, as any new ``nn.Module``.

    ``into`` is the model that a program was captured from with ``module=``: the result is a copy of it that
    shares all else, with the emitted module in that submodule's place and mode.
    """
    require_program(program)
    _require_place(device, dtype)
    emitted = _emitted(program, device, dtype, compile)
    if into is None:
        return emitted
    from mlgraph.emit.splice import splice

    return splice(program, emitted, into)


def _require_place(device: Any, dtype: object) -> None:
    """Raise MlgraphError where no module can have this device or dtype."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise MlgraphError(f"dtype is {dtype!r}, and must be a floating-point one such as torch.bfloat16.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch built without it, or without a driver
        raise MlgraphError(f"device {device!r} cannot be used: {first_line(error)}.") from error


def _emitted(
    program: Program, device: torch.device | str | None, dtype: torch.dtype | None, compile: bool
) -> EmittedModule:
    if dtype is not None and dtype is not torch.float64:
        program = with_dtype(program, dtype)
    elif dtype is not None:
        program = program.replace(tensors=_doubled(program.tensors))
    if device is not None:
        program = program.replace(tensors=_moved(program.tensors, device))
    if holds_double(program):
        program = widen(program)
    casts = follow_casts(program)
    extra = {node: (origin,) for node, origin in casts.restored.items() if origin is not None}
    root = outline(program, extra)
    places = Places(program, root)
    for name in places.parents | dict.fromkeys(program.tensors):
        _refuse_own_name(name.partition(".")[0])
    modules: dict[str, nn.Module] = {}
    for body in bodies(root):
        if body.path:
            source = _block_source(body, casts, places, program.graph)
            modules[body.path] = outlined(EmittedBlock, source, {})
    source, constants = _root_source(program, root, casts, places)
    module = outlined(EmittedModule, source, constants)
    modules[""] = module
    module_tree(places, modules)
    _register(module, program.tensors)
    _name(module, program.graph)
    assert isinstance(module, EmittedModule)
    module._program = program
    if compile:
        module.compile()
    return module


def _refuse_own_name(name: str) -> None:
    if hasattr(EmittedModule, name) and not hasattr(nn.Module, name):
        raise MlgraphError(
            f"the model has a part called {name}, a name that emitted modules use themselves; rename it, "
            "then capture the model again"
        )


def _moved(tensors: Tensors, device: torch.device | str) -> Tensors:
    target = torch.empty(0, device=device).device
    return _each(tensors, lambda tensor: tensor if tensor.device == target else tensor.detach().to(target))


def _doubled(tensors: Tensors) -> Tensors:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        narrow = tensor.is_floating_point() and tensor.dtype is not torch.float64
        return tensor.detach().double() if narrow else tensor

    return _each(tensors, change)


def _each(tensors: Tensors, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """Every tensor changed; a parameter that becomes another tensor is a parameter again."""
    values: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        values[name] = changed = change(tensor)
        if changed is not tensor and isinstance(tensor, nn.Parameter):
            values[name] = nn.Parameter(changed, requires_grad=tensor.requires_grad)
    return tensors.replace(values)


def _register(root: nn.Module, tensors: Tensors) -> None:
    """Put every tensor at each of its names; names of one tensor hold one object."""
    objects: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name in tensors.parameters and not isinstance(tensor, nn.Parameter):
            differentiable = tensor.is_floating_point() or tensor.is_complex()
            tensor = nn.Parameter(tensor, requires_grad=differentiable and name not in tensors.frozen)
        objects[name] = tensor
    for name in [*tensors, *tensors.aliases]:
        tensor = objects[tensors.aliases.get(name, name)]
        owner, _, leaf = name.rpartition(".")
        holder = root.get_submodule(owner) if owner else root
        if isinstance(tensor, nn.Parameter):
            holder._parameters[leaf] = tensor
        else:
            holder.register_buffer(leaf, tensor, persistent=name in tensors.persistent)


def _name(root: nn.Module, graph: fx.Graph) -> None:
    """Call every plain holder of tensors after the op that takes them all, as ``Linear`` or ``LayerNorm``."""
    for node in graph.nodes:
        read = {str(source.target) for source in node.all_input_nodes if source.op == "get_attr"}
        owners = {name.rpartition(".")[0] for name in read}
        if node.op != "call_function" or len(owners) != 1:
            continue
        holder = root.get_submodule(owners.pop())
        own = sum(1 for _ in holder.parameters(recurse=False))
        if type(holder) is Holder and len(read) == own:
            holder._kind = op_name(node).title().replace("_", "")


def _block_source(body: Body, casts: Casts, places: Places, graph: fx.Graph) -> str:
    writer = BodyWriter(body, casts, places, graph)
    arguments = writer.bind_inputs()
    writer.write()
    results = ", ".join(writer.value(node) for node in body.outputs)
    return _function(", ".join(["self", *arguments]), [*writer.lines, f"return {results}"])


def _function(arguments: str, lines: list[str]) -> str:
    return "\n".join([f"def forward({arguments}):", *(f"    {line}" for line in lines), ""])


def _root_source(program: Program, body: Body, casts: Casts, places: Places) -> tuple[str, Mapping[str, Any]]:
    writer = BodyWriter(body, casts, places, program.graph)
    names = writer.bind_inputs()
    entry, arguments, constants = entry_source(program, names, writer.reserve)
    writer.write()
    output = next(node for node in program.graph.nodes if node.op == "output")
    leaves = iter(output.args[0])
    result = result_source(program.signature.out_spec, leaves, writer, constants)
    source = _function(arguments, [*entry, *writer.lines, f"return {result}"])
    for name in GLOBALS.intersection(re.findall(r"\w+", arguments)):
        # an argument may be called as what generated code calls
        source = re.sub(rf"(?<![\w.]){name}(?=[.(])", f"_{name}", source)
    return source, constants
