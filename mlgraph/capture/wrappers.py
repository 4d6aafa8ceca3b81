"""Modules that only stand around another, as libraries put them: what is captured is the one inside."""

from __future__ import annotations

from torch import nn

from mlgraph.program import Note


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[Note, ...]]:
    """The module inside of wrappers for several devices and for compilation, and a note that says so."""
    inner = model
    while (next_inner := _inside(inner)) is not None:
        inner = next_inner
    if inner is model:
        return model, ()
    said = f"the module inside of {type(model).__name__} is captured, under its own names"
    return inner, (Note("call", said),)


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        inner: nn.Module = model.module
        return inner
    compiled = model.__dict__.get("_orig_mod") or model._modules.get("_orig_mod")
    if compiled is None:
        return None
    from torch._dynamo import OptimizedModule

    return compiled if isinstance(model, OptimizedModule) else None
