"""What stands between a caller and a model's own code: wrappers, hooks of the model, code of other kinds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.errors import CaptureError
from mlgraph.program import Note

if TYPE_CHECKING:
    from mlgraph.capture.export import Call


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


def refuse_what_cannot_be_read(model: nn.Module) -> None:
    """Raise CaptureError for a module whose code is no Python, or whose parameters have no shapes yet."""
    for path, module in model.named_modules():
        name = path or "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{name} is a TorchScript module, whose code cannot be traced; capture the nn.Module that it "
                "was made of"
            )
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            raise CaptureError(
                f"{name} ({type(module).__name__}) holds an object of torch's own (packed, quantised "
                "weights), which cannot be traced; capture the model that it was made of"
            )
        parameters = [*module._parameters.values(), *module._buffers.values()]
        if any(nn.parameter.is_lazy(p) for p in parameters if p is not None):
            raise CaptureError(
                f"{name} ({type(module).__name__}) has parameters without shapes yet; run the model once, "
                "then capture it"
            )


@contextlib.contextmanager
def hooks_given_as_called(model: nn.Module, call: Call) -> Iterator[None]:
    """Let hooks of the model itself see by position what the caller gave so; a capture gives all by name."""
    hooks = [*vars(model)["_forward_pre_hooks"], *vars(model)["_forward_hooks"]]
    if not call.by_position or not hooks:
        yield
        return

    def by_position(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args or not all(name in kwargs for name in call.by_position):
            return args, kwargs
        first = tuple(kwargs[name] for name in call.by_position)
        return first, {name: value for name, value in kwargs.items() if name not in call.by_position}

    handle = model.register_forward_pre_hook(by_position, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
