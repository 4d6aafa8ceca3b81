"""From a program to an executable ``nn.Module``."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.emit.casts import Casts, follow_casts
from mlgraph.emit.codegen import BodyWriter
from mlgraph.emit.outline import Body, outline
from mlgraph.emit.pickling import PackedProgram, pack, pack_spec, unpack_spec
from mlgraph.emit.places import Places, bodies, module_tree
from mlgraph.emit.precision import with_dtype
from mlgraph.emit.runtime import Outlined, outlined
from mlgraph.emit.widen import holds_double, widen
from mlgraph.errors import MlgraphError
from mlgraph.program import Input, Program, Tensors


class Block(Outlined):
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
        return program.replace(tensors=program.tensors.replace(values))

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
    emitted = _emitted(program, device, dtype, compile)
    if into is None:
        return emitted
    from mlgraph.emit.splice import splice

    return splice(program, emitted, into)


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
    modules: dict[str, nn.Module] = {}
    for body in bodies(root):
        if body.path:
            source = _block_source(body, casts, places, program.graph)
            modules[body.path] = outlined(Block, source, {})
    source, constants = _root_source(program, root, casts, places)
    module = outlined(EmittedModule, source, constants)
    modules[""] = module
    module_tree(places, modules)
    _register(module, program.tensors)
    assert isinstance(module, EmittedModule)
    module._program = program
    if compile:
        module.compile()
    return module


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
            tensor = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        objects[name] = tensor
    for name in [*tensors, *tensors.aliases]:
        tensor = objects[tensors.aliases.get(name, name)]
        owner, _, leaf = name.rpartition(".")
        holder = root.get_submodule(owner) if owner else root
        if isinstance(tensor, nn.Parameter):
            holder._parameters[leaf] = tensor
        else:
            holder.register_buffer(leaf, tensor, persistent=name in tensors.persistent)


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
    entry, arguments, constants = _entry(program, names)
    writer.write()
    output = next(node for node in program.graph.nodes if node.op == "output")
    leaves = iter(output.args[0])
    result = _structure(program.signature.out_spec, leaves, writer, constants)
    lines = [*entry, *writer.lines, f"return {result}"]
    return _function(arguments, lines), constants


def _entry(program: Program, names: list[str]) -> tuple[list[str], str, dict[str, Any]]:
    """Statements that bring the caller's arguments into the placeholders' names."""
    signature = program.signature
    args_spec, kwargs_spec = signature.in_spec.children()
    flat = all(spec.is_leaf() for spec in kwargs_spec.children())
    checks = [
        line for leaf, name in zip(signature.inputs, names, strict=True) for line in _checks(leaf, name)
    ]
    constants: dict[str, Any] = {}
    if args_spec.num_leaves or args_spec.num_children:
        constants["bind"] = _Binder(signature.in_spec, tuple(signature.inputs))
        return [f"{', '.join(names)}, = bind(args, kwargs)", *checks], "self, *args, **kwargs", constants
    keys = list(kwargs_spec.context)
    order = [*signature.parameters, *(key for key in keys if key not in signature.parameters)]
    arguments = ["self"]
    lines = []
    bound = dict(zip(keys, names, strict=True)) if flat else {}
    for argument in order:
        leaf = signature.inputs[names.index(bound[argument])] if argument in bound else None
        if leaf is not None and not leaf.is_tensor:
            arguments.append(f"{argument}={leaf.value!r}" if _is_plain(leaf.value) else f"{argument}=None")
        else:
            arguments.append(f"{argument}=None")
    unknown = [argument for argument in order if argument not in keys]
    for argument in unknown:
        lines += [
            f"if {argument} is not None:",
            f"    self._refuse({argument!r}, 'was not given when the model was captured; capture it so')",
        ]
    lines += [
        "if other:",
        "    self._refuse(next(iter(other)), 'is not one the model was captured with; leave it out')",
    ]
    if flat:
        for key in keys:
            if bound[key] != key:
                lines.append(f"{bound[key]} = {key}")
    else:
        constants["bind"] = _Binder(signature.in_spec, tuple(signature.inputs))
        given = ", ".join(f"{key!r}: {key}" for key in keys)
        lines.append(f"{', '.join(names)}, = bind((), {{{given}}})")
    return [*lines, *checks], ", ".join([*arguments, "**other"]), constants


def _is_plain(value: Any) -> bool:
    return (
        value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and value == value)
    )


def _checks(leaf: Input, name: str) -> list[str]:
    """What is fixed in an input is checked on every call: its rank and its fixed sizes."""
    if not leaf.is_tensor:
        if not _is_plain(leaf.value):
            return []
        return [
            f"if {name} != {leaf.value!r}:",
            f"    self._refuse({leaf.name!r}, 'was {leaf.value!r} in the capture; capture it anew')",
        ]
    tests = [f"{name}.dim() != {len(leaf.shape)}"]
    tests += [
        f"{name}.size({dim}) != {size}"
        for dim, (size, symbol) in enumerate(zip(leaf.shape, leaf.symbols, strict=True))
        if symbol is None
    ]
    sizes = ", ".join(symbol or str(size) for size, symbol in zip(leaf.shape, leaf.symbols, strict=True))
    return [
        f"if {name} is None:",
        f"    self._refuse({leaf.name!r}, 'is missing; the model was captured with it')",
        f"if {' or '.join(tests)}:",
        f"    self._refuse({leaf.name!r}, f'must have shape [{sizes}], not {{list({name}.shape)}}')",
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Binder:
    """Flattens a call's arguments into the leaves that a program takes."""

    spec: pytree.TreeSpec
    inputs: tuple[Input, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _bind_packed, (pack_spec(self.spec), self.inputs)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        keys = self.spec.children()[1].context
        ordered = {key: kwargs[key] for key in keys if key in kwargs} | kwargs
        leaves, spec = pytree.tree_flatten((args, ordered))
        if spec != self.spec:
            raise MlgraphError(
                f"the arguments have the structure {spec}, and the model was captured with {self.spec}; "
                "pass the same ones"
            )
        return leaves


def _bind_packed(packed: Any, inputs: tuple[Input, ...]) -> _Binder:
    return _Binder(unpack_spec(packed), inputs)


def _structure(spec: pytree.TreeSpec, leaves: Any, writer: BodyWriter, constants: dict[str, Any]) -> str:
    """The output as an expression: plain containers as literals, classes by a call."""
    if spec.is_leaf():
        return writer.value(next(leaves))
    parts = [_structure(child, leaves, writer, constants) for child in spec.children()]
    if spec.type is tuple:
        return f"({', '.join(parts)},)" if parts else "()"
    if spec.type is list:
        return f"[{', '.join(parts)}]"
    keys = spec.context
    if spec.type is dict:
        return "{" + ", ".join(f"{key!r}: {part}" for key, part in zip(keys, parts, strict=True)) + "}"
    name = f"{spec.type.__name__}"
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys) and len(keys) == len(parts)
    if dataclasses.is_dataclass(spec.type) and named:
        constants[name] = spec.type
        return f"{name}({', '.join(f'{key}={part}' for key, part in zip(keys, parts, strict=True))})"
    name = f"unflatten_{len(constants)}"
    constants[name] = _Unflatten(pytree.TreeSpec(spec.type, spec.context, [_LEAF] * len(parts)))
    return f"{name}([{', '.join(parts)}])"


_LEAF = pytree.tree_structure(0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Unflatten:
    spec: pytree.TreeSpec

    def __reduce__(self) -> tuple[Any, ...]:
        return _unflatten_packed, (pack_spec(self.spec),)

    def __call__(self, leaves: list[Any]) -> Any:
        return pytree.tree_unflatten(leaves, self.spec)


def _unflatten_packed(packed: Any) -> _Unflatten:
    return _Unflatten(unpack_spec(packed))
