"""The closed table of functions that a graph in a file may call."""

from __future__ import annotations

import importlib
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from mlgraph.graph import ops
from mlgraph.storage.plain_values import Malformed, shorten

# Which operator namespaces a file may name, and the installed module that registers each.
_NAMESPACES: dict[str, str | None] = {
    "aten": None,
    "prims": "torch._prims",
    "torchvision": "torchvision",
    "transformers": "transformers.integrations.moe",
}

_OPERATORS = (
    "abs", "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "index", "invert", "le", "lshift", "lt",
    "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub", "truediv", "xor",
)  # fmt: skip
_SYMBOLIC = ("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_sum")

_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC if hasattr(torch, name)},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    "mlgraph.ops.drop_path": ops.drop_path,
}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}

# An op that returns nothing is there for its effect; these only check, the others print, write files or
# worse.
_CHECKS = re.compile(r"_assert_(async|scalar|tensor_metadata)|sym_constrain_range(_for_size)?")
_OVERLOAD = re.compile(r"([A-Za-z]\w{0,63})\.(\w{1,127})\.(\w{1,127})", re.ASCII)
_PLAIN_TYPES = {
    "Tensor", "int", "float", "bool", "str", "number", "complex", "Device", "Layout", "MemoryFormat",
    "ScalarType", "SymInt", "SymFloat", "SymBool", "Generator",
}  # fmt: skip
_WRAPPED = re.compile(r"(?:Optional|List)\[(.*)\]")


def allow_ops(namespace: str) -> None:
    """Let saved programs call the custom operators registered as ``namespace::name`` in this process."""
    _NAMESPACES[namespace] = None


def encode_target(target: Any) -> str:
    """The name under which a file calls ``target``. Raises ``Malformed`` where the table has none."""
    if isinstance(target, OpOverload):
        name = f"{target.namespace}.{target._schema.name.split('::')[-1]}.{target._overloadname}"
        if target.namespace not in _NAMESPACES:
            raise Malformed(
                f"{name} is an operator that files may not name; let them, here and where they are loaded, "
                f"with mlgraph.storage.allow_ops({target.namespace!r})"
            )
        # What a file may not name on loading must not be written on saving.
        return name if decode_target(name) is target else _unknown(name)
    try:
        return _NAMES[target]
    except (KeyError, TypeError):
        return _unknown(getattr(target, "__name__", str(target)))


def _unknown(name: Any) -> str:
    raise Malformed(f"{shorten(name)} is not among the operations that a file may name")


def decode_target(name: Any) -> Callable[..., Any]:
    """The function called ``name``. Raises ``Malformed`` where the table has none."""
    if not isinstance(name, str):
        _unknown(name)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    match = _OVERLOAD.fullmatch(name)
    if match is None or match[1] not in _NAMESPACES:
        _unknown(name)
    assert match is not None
    return _overload(*match.groups())


@cache
def _overload(namespace: str, packet_name: str, overload_name: str) -> OpOverload[..., Any]:
    full = f"{namespace}.{packet_name}.{overload_name}"
    _register(namespace, full)
    packet = getattr(getattr(torch.ops, namespace), packet_name, None)
    if not isinstance(packet, OpOverloadPacket) or overload_name not in _overload_names(packet):
        raise Malformed(f"{full} is not an operation of the installed versions of torch and its libraries")
    overload = getattr(packet, overload_name)
    if not isinstance(overload, OpOverload) or not _is_pure_data(overload):
        _unknown(full)
    return overload  # type: ignore[no-any-return]


def _overload_names(packet: OpOverloadPacket[..., Any]) -> list[str]:
    return packet.overloads()  # type: ignore[no-untyped-call,no-any-return]


def _register(namespace: str, full: str) -> None:
    module = _NAMESPACES[namespace]
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise Malformed(f"{full} is an operation of {package}, which is not installed") from None


def _is_pure_data(overload: OpOverload[..., Any]) -> bool:
    """Whether an op takes and gives tensors and plain values only, and touches no file."""
    schema = overload._schema
    types = [str(item.type) for item in (*schema.arguments, *schema.returns)]
    # Without a tensor it is one of TorchScript's operations on strings, lists and files.
    computes = bool(schema.returns) and any("Tensor" in kind for kind in types)
    if not computes and not _CHECKS.fullmatch(schema.name.split("::")[-1]):
        return False
    return all(_plain(kind) for kind in types) and not any(
        argument.is_out or argument.name == "filename" for argument in schema.arguments
    )


def _plain(kind: str) -> bool:
    while match := _WRAPPED.fullmatch(kind):
        kind = match[1]
    return kind in _PLAIN_TYPES
