"""How an emitted module takes its arguments and returns its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

from mlgraph.emit.pickling import pack_spec, unpack_spec
from mlgraph.errors import MlgraphError
from mlgraph.program.size_guards import holds, text
from mlgraph.program.size_guards import names as names_in

if TYPE_CHECKING:
    from mlgraph.emit.codegen import BodyWriter
    from mlgraph.program import Input, Program, Signature


def entry_source(
    program: Program, names: list[str], reserve: Callable[[str], str]
) -> tuple[list[str], str, dict[str, Any]]:
    """Statements that bring the caller's arguments into the placeholders' names, and check them.

    ``reserve`` gives a local name like another.
    """
    signature = program.signature
    args_spec, kwargs_spec = signature.in_spec.children()
    flat = all(spec.is_leaf() for spec in kwargs_spec.children())
    checks = _Checks(signature, names, reserve).lines()
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
    other = _unlike("other", order)
    lines += [
        f"if {other}:",
        f"    self._refuse(next(iter({other})), 'is not one the model was captured with; leave it out')",
    ]
    if flat:
        for key in keys:
            if bound[key] != key:
                lines.append(f"{bound[key]} = {key}")
    else:
        constants["bind"] = _Binder(signature.in_spec, tuple(signature.inputs))
        given = ", ".join(f"{key!r}: {key}" for key in keys)
        lines.append(f"{', '.join(names)}, = bind((), {{{given}}})")
    return [*lines, *checks], ", ".join([*arguments, f"**{other}"]), constants


def _unlike(name: str, taken: Iterable[str]) -> str:
    known = {*taken}
    while name in known:
        name = f"{name}_"
    return name


def _is_plain(value: Any) -> bool:
    return (
        value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and value == value)
    )


class _Checks:
    """What is checked of the inputs on every call: ranks, fixed sizes, equal sizes, and guards."""

    def __init__(self, signature: Signature, names: list[str], reserve: Callable[[str], str]) -> None:
        self.signature, self.names, self.reserve = signature, names, reserve
        self.sizes: dict[str, str] = {}
        guarded = [size for guard in signature.guards for size in names_in(guard)]
        dims = [symbol for leaf in signature.inputs for symbol in leaf.symbols if symbol is not None]
        self.looked_at = {*guarded, *(symbol for symbol in dims if dims.count(symbol) > 1)}

    def lines(self) -> list[str]:
        inputs = zip(self.signature.inputs, self.names, strict=True)
        found = [line for leaf, name in inputs for line in self._input(leaf, name)]
        guards = [g for g in self.signature.guards if all(size in self.sizes for size in names_in(g))]
        if guards:
            tests = " and ".join(f"({text(guard, self.sizes, python=True)})" for guard in guards)
            given = ", ".join(f"{size!r}: {local}" for size, local in self.sizes.items())
            found += [f"if not ({tests}):", f"    self._refuse_sizes({{{given}}})"]
        return found

    def _input(self, leaf: Input, name: str) -> list[str]:
        if not leaf.is_tensor:
            if not _is_plain(leaf.value):
                return []
            why = f"was {leaf.value!r} in the capture; capture it anew"
            return [f"if {name} != {leaf.value!r}:", f"    self._refuse({leaf.name!r}, {why!r})"]
        fixed, equal, new = [f"{name}.dim() != {len(leaf.shape)}"], [], []
        for dim, (size, symbol) in enumerate(zip(leaf.shape, leaf.symbols, strict=True)):
            if symbol is None:
                fixed.append(f"{name}.size({dim}) != {size}")
            elif symbol in self.sizes:
                equal.append(f"{name}.size({dim}) != {self.sizes[symbol]}")
            elif symbol in self.looked_at:
                self.sizes[symbol] = self.reserve(symbol)
                new.append(f"{self.sizes[symbol]} = {name}.size({dim})")
        sizes = ", ".join(s or str(n) for n, s in zip(leaf.shape, leaf.symbols, strict=True))
        lines = [
            f"if not isinstance({name}, torch.Tensor):",
            f"    self._refuse_value({leaf.name!r}, {name})",
            f"if {' or '.join(fixed)}:",
            f"    self._refuse({leaf.name!r}, f'must have shape [{sizes}], not {{list({name}.shape)}}')",
            *new,
        ]
        if equal:
            known = dict.fromkeys(symbol for symbol in leaf.symbols if symbol in self.sizes)
            values = ", ".join(f"{symbol} {{{self.sizes[symbol or '']}}}" for symbol in known)
            must = f"must have shape [{sizes}] with {values}, not {{list({name}.shape)}}"
            lines += [f"if {' or '.join(equal)}:", f"    self._refuse({leaf.name!r}, f'{must}')"]
        return lines


def broken_guard(signature: Signature, sizes: Mapping[str, int]) -> tuple[str, str]:
    """Which input has sizes that the program cannot take, and why; ``sizes`` break a guard."""
    guard = next(guard for guard in signature.guards if not holds(guard, sizes))
    places: dict[str, tuple[str, int]] = {}
    for leaf in signature.inputs:
        for dim, symbol in enumerate(leaf.symbols):
            if symbol is not None:
                places.setdefault(symbol, (leaf.name, dim))
    concerned = list(names_in(guard))
    first = places[concerned[0]][0]
    told = []
    for size in concerned:
        name, dim = places[size]
        of = "" if name == first else f" of {name}"
        told.append(f"{size} (dim {dim}{of}) {sizes[size]}")
    return (
        first,
        f"has {', '.join(told)}, and the model was captured for {text(guard)}; capture it at such a size",
    )


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
