"""How an emitted module takes its arguments and returns its results."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.utils import _pytree as pytree

from mlgraph.emit.codegen import BodyWriter
from mlgraph.emit.pickling import pack_spec, unpack_spec
from mlgraph.errors import MlgraphError
from mlgraph.program import Input, Program


def entry_source(program: Program, names: list[str]) -> tuple[list[str], str, dict[str, Any]]:
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


def result_source(spec: pytree.TreeSpec, leaves: Any, writer: BodyWriter, constants: dict[str, Any]) -> str:
    """The output as an expression: plain containers as literals, classes by a call."""
    if spec.is_leaf():
        return writer.value(next(leaves))
    parts = [result_source(child, leaves, writer, constants) for child in spec.children()]
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
