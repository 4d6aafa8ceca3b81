"""A submodule in the place of a model: what it is called with, and which one to try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph.capture.export import Call, captures, failing_module, has_values
from mlgraph.errors import CaptureError, suggestion

_TRIES = 3
# A submodule with less of a model's parameters than this is no stand-in for it.
_LEAST_SHARE = 0.25


def submodule(model: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path. Raises CaptureError with paths that are like it."""
    known: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path in known and path:
        return known[path]
    paths = [known_path for known_path in known if known_path]
    hint = suggestion(path, paths, f"did you mean {paths[0]!r}?" if paths else "it has none.")
    raise CaptureError(f"{type(model).__name__} has no submodule {path!r}; {hint}")


def called_with(model: nn.Module, path: str, call: Call) -> tuple[Call, int]:
    """The arguments of a submodule's first call when ``model`` runs on ``call``, and the number of calls.

    The model runs in evaluation, without gradients. Raises CaptureError where it does not call the submodule.
    """
    found: list[Call] = []

    def copied(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {name: value for name, value in kwargs.items() if value is not None}
        found.append(Call(*pytree.tree_map(copied, (args, given))))

    modes = {module: module.training for module in model.modules()}
    handle = submodule(model, path).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            model.eval()
            model(*call.args, **call.kwargs)
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if not found:
        raise CaptureError(
            f"{path} is not called when {type(model).__name__} runs on these inputs; "
            "name a submodule that is, or give inputs that reach it"
        )
    return found[0], len(found)


def stand_in(model: nn.Module, call: Call, error: BaseException) -> str:
    """Which submodule can be captured where the model cannot, as the end of a sentence; empty if none.

    Tried are the largest submodules that do not hold the code in which ``error`` arose.
    """
    if not has_values(model):
        return ""
    whole = sum(parameter.numel() for parameter in model.parameters())
    for path, module in list(_beside(model, failing_module(model, error)))[:_TRIES]:
        held = sum(parameter.numel() for parameter in module.parameters())
        if held < _LEAST_SHARE * whole:
            break
        try:
            inner, _ = called_with(model, path, call)
        except Exception:  # whatever the model raises on its way says that this is no way in
            continue
        if captures(module, inner):
            share = 100 * held // whole
            named = f"--module {path} (in Python module={path!r})"
            return f"; {named}, which holds {share}% of the parameters, can be captured"
    return ""


def _beside(model: nn.Module, failing: str | None) -> Iterator[tuple[str, nn.Module]]:
    """Submodules that do not hold the failing one, none inside another, the largest first."""
    chosen: dict[str, tuple[int, nn.Module]] = {}
    path = failing or ""
    for name, module in model.named_modules():
        inside = f"{path}.".startswith(f"{name}.") or not name
        nested = any(name.startswith(f"{outer}.") for outer in chosen)
        if not inside and not nested and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            chosen[name] = sum(parameter.numel() for parameter in module.parameters()), module
    for name, (_, module) in sorted(chosen.items(), key=lambda item: -item[1][0]):
        yield name, module
