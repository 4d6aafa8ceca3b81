"""How ops are spelled in Python: as operators, methods, functions of torch, or by their own names."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

OPERATORS = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.truediv: "/",
    operator.mod: "%",
    operator.pow: "**",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}

# Called as methods of their first argument, with the same further arguments.
METHODS = {
    # A view may need a copy on another device, where attention lays its result out differently.
    aten.view.default: "reshape",
    aten.reshape.default: "reshape",
    aten.expand.default: "expand",
    aten.contiguous.default: "contiguous",
    aten.expand_as.default: "expand_as",
    aten.view_as.default: "view_as",
    aten.repeat.default: "repeat",
    aten.new_ones.default: "new_ones",
    aten.new_zeros.default: "new_zeros",
    aten.new_full.default: "new_full",
    aten.new_empty.default: "new_empty",
    aten.to.dtype: "to",
    aten.detach.default: "detach",
    aten.sym_size.int: "size",
    aten.add_.Tensor: "add_",
    aten.copy_.default: "copy_",
    aten.type_as.default: "type_as",
}

_FUNCTIONAL = {
    aten.linear.default: "linear",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.scaled_dot_product_attention.default: "scaled_dot_product_attention",
    aten.pad.default: "pad",
    aten.one_hot.default: "one_hot",
}

BITWISE = {aten.__and__.Tensor: "&", aten.__or__.Tensor: "|", aten.__xor__.Tensor: "^"}

# Wrapped in Python with a signature or a meaning other than ATen's.
_NOT_TORCH = {"norm", "unique_consecutive", "stft", "istft", "cdist", "meshgrid", "tensordot", "lu", "to"}

SCALAR_FUNCTIONS: dict[Any, str] = {
    math.ceil: "math.ceil",
    math.floor: "math.floor",
    torch.sym_max: "max",
    torch.sym_min: "min",
    torch.sym_float: "float",
    torch.sym_int: "int",
    torch.sym_not: "(lambda x: not x)",
    operator.neg: "(lambda x: -x)",
    operator.and_: "(lambda x, y: x and y)",
    operator.or_: "(lambda x, y: x or y)",
    math.trunc: "int",
    round: "round",
}


def function_of(target: torch._ops.OpOverload) -> str:
    """The name under which an overload is called: torch's function where it means the same, else its own."""
    name = target._schema.name.split("::")[1]
    if target in _FUNCTIONAL:
        return f"F.{_FUNCTIONAL[target]}"
    public = getattr(torch, name, None)
    # the defaults of reductions are read wrongly by the Python functions: a loss left at its mean is none
    reduces = any(argument.name == "reduction" for argument in target._schema.arguments)
    plain = isinstance(public, type(torch.add)) and not (reduces or name.endswith("_") or name in _NOT_TORCH)
    if target.namespace == "aten" and plain:
        return f"torch.{name}"
    return f"torch.ops.{target.namespace}.{name}.{target._overloadname}"


def stem_of(node: fx.Node) -> str:
    """The op's name, from which the name of its result is made."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        stem = target._schema.name.split("::")[1].strip("_")
        return "size" if stem == "sym_size" else stem
    return str(getattr(target, "__name__", "value")).strip("_")
