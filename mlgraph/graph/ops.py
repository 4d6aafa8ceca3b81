"""What a node's op is called and what is true of it, and operations that ATen has no single op for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from mlgraph.graph.traits import OPS, Facts, Positions, Trait


def drop_path(x: torch.Tensor, p: float, dims: Sequence[int], training: bool) -> torch.Tensor:
    """Stochastic depth (Huang et al., 2016): drop whole slices of ``x``, scale the rest by ``1 / (1 - p)``.

    ``dims`` are the dims of ``x`` along which the draws are independent; ``[0]`` draws once per sample.
    With ``training`` false, or ``p`` 0, ``x`` is returned.
    """
    if not training or p == 0.0:
        return x
    shape = [size if dim in dims else 1 for dim, size in enumerate(x.shape)]
    keep = 1.0 - p
    mask = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep)
    if keep > 0.0:
        mask = mask / keep
    return x * mask


RANDOM = frozenset({drop_path})
"""Functions of this module that draw random numbers."""


def op_label(node: fx.Node) -> str:
    """The op as a reader knows it, without namespace and overload: ``"add_"`` for ``aten.add_.Tensor``.

    A node that calls nothing is called by its kind (``"placeholder"``).
    """
    return _name(node.target) if node.op == "call_function" else node.op


def op_name(node: fx.Node) -> str:
    """The op without namespace, overload and in-place mark: ``"add"`` for ``aten.add_.Tensor``."""
    name = op_label(node)
    return name if name.startswith("__") else name.rstrip("_")


def has(value: Any, traits: Trait) -> bool:
    """Whether a value is a node whose op has one of ``traits``."""
    return (
        isinstance(value, fx.Node)
        and value.op == "call_function"
        # as numbers, since flags are slow and this is asked of every node many times
        and _bits(value.target) & traits.value != 0
    )


def traits_of(target: Any) -> Trait:
    """What is true of every call of an op."""
    return _facts(target).traits


def positions(node: fx.Node) -> Positions | None:
    """Where the node's op takes weight and bias; None where it has no such places."""
    return _facts(node.target).positions if node.op == "call_function" else None


def arguments(node: fx.Node) -> list[Any]:
    """All arguments of a call by position, with defaults filled in where the op has a schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return [*node.args, *node.kwargs.values()]
    values: list[Any] = []
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            values.append(node.args[index])
        else:
            default = argument.default_value if argument.has_default_value() else None
            values.append(node.kwargs.get(argument.name, default))
    return values


def argument(node: fx.Node, name: str) -> Any:
    """What a call is given for the argument of that name, or its default; None where the op takes none."""
    schema = getattr(node.target, "_schema", None)
    names = [known.name for known in schema.arguments] if schema is not None else []
    return arguments(node)[names.index(name)] if name in names else None


def is_tensor_valued(node: fx.Node) -> bool:
    """Whether the node yields a tensor or a sequence that holds one."""
    value = node.meta.get("val")
    if value is None:
        return node.op in ("get_attr", "placeholder") or op_name(node) != "sym_size"
    if isinstance(value, (tuple, list)):
        return any(isinstance(item, torch.Tensor) for item in value)
    return isinstance(value, torch.Tensor)


@lru_cache(maxsize=1024)
def _name(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return str(schema.name).split("::")[-1]
    return str(getattr(target, "__name__", target))


@lru_cache(maxsize=1024)
def _bits(target: Any) -> int:
    return int(_facts(target).traits.value)


@lru_cache(maxsize=1024)
def _facts(target: Any) -> Facts:
    # a division that rounds is another op under the same name
    if getattr(target, "_overloadname", "").endswith("_mode"):
        return Facts()
    name = _name(target)
    found = OPS.get(name if name.startswith("__") else name.rstrip("_"), Facts())
    return Facts(found) if isinstance(found, Trait) else found
