"""The modules that emitted models are made of."""

from __future__ import annotations

import builtins
import hashlib
import linecache
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from mlgraph.graph import ops

_MODULES: dict[str, Any] = {"torch": torch, "F": F, "math": math}
GLOBALS = frozenset({*_MODULES, *dir(builtins)})
"""What generated code may call by its bare name, or behind an underscore."""
_ALIASES = {f"_{name}": value for name, value in {**vars(builtins), **_MODULES}.items()}


class Holder(nn.Module):
    """A holder of parameters, buffers and further modules under their original names.

    It prints as the op that reads its tensors, with their sizes.
    """

    # the underscore keeps it apart from names in the model
    _kind = ""

    def extra_repr(self) -> str:
        held = [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]
        return ", ".join(f"{name}={list(tensor.shape)}" for name, tensor in held)

    def _get_name(self) -> str:
        return self._kind or type(self).__name__


class DropPath(nn.Module):
    """Stochastic depth in training mode, the identity otherwise; see :func:`mlgraph.ops.drop_path`."""

    def __init__(self, p: float, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.p = p
        self.dims = dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.drop_path(x, self.p, self.dims, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, dims={self.dims}"


class Attention(nn.Module):
    """Scaled dot-product attention that drops out attention weights in training mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(
            query, key, value, mask, p, is_causal, scale=scale, enable_gqa=enable_gqa
        )

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Outlined(Holder):
    """A module whose ``forward`` was generated; equal sources share one class and one compiled code."""

    # Set on the generated subclass; the underscores keep them apart from names in the model.
    _source: str
    _constants: Mapping[str, Any]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        state = dict(self.__dict__)
        # a compiled call is made anew where the copy is compiled
        state.pop("_compiled_call_impl", None)
        base = next(
            cls for cls in type(self).__mro__ if "_source" not in cls.__dict__ and issubclass(cls, Outlined)
        )
        return _rebuild, (base, self._source, tuple(self._constants.items())), state


def generated_source(module: Outlined) -> str:
    """The text of a generated module's ``forward``."""
    return module._source


def outlined(base: type[Outlined], source: str, constants: Mapping[str, Any]) -> Outlined:
    """A new module of class ``base`` whose ``forward`` is the function that ``source`` defines."""
    cls = _class(base, source, tuple(constants.items()))
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    return module


def _rebuild(base: type[Outlined], source: str, constants: tuple[tuple[str, Any], ...]) -> Outlined:
    cls = _class(base, source, constants)
    return cls.__new__(cls)


def _class(base: type[Outlined], source: str, constants: tuple[tuple[str, Any], ...]) -> type[Outlined]:
    try:
        return _cached_class(cast("Any", base), source, constants)
    except TypeError:
        # a constant that does not hash
        return _make_class(base, source, constants)


def _make_class(base: type[Outlined], source: str, constants: tuple[tuple[str, Any], ...]) -> type[Outlined]:
    filename = f"<mlgraph {hashlib.sha1(source.encode()).hexdigest()[:12]}>"
    # so that tracebacks and debuggers show the lines
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    names: dict[str, Any] = {**_MODULES, **_ALIASES, **dict(constants)}
    exec(compile(source, filename, "exec"), names)
    body = {"forward": names["forward"], "_source": source, "_constants": dict(constants)}
    return type(base.__name__, (base,), {**body, "__module__": __name__})


@lru_cache(maxsize=512)
def _cached_class(base: Any, source: str, constants: tuple[tuple[str, Any], ...]) -> type[Outlined]:
    return _make_class(base, source, constants)
