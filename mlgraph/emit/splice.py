"""An emitted module in the place of the submodule that it was captured from."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from mlgraph.program import Program

__all__ = ["splice"]


def splice(program: Program, emitted: nn.Module, model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which ``emitted`` stands where ``program`` was captured from.

    The copy shares every parameter and buffer outside of it with ``model``, which stays as it was. A
    parameter that the submodule shares with the model around it is shared again.

    Raises:
        MlgraphError: the program was not captured with ``module=``, the model has no such submodule, or a
            pass changed a parameter that the two share.
    """
    path = program.submodule
    if not path:
        raise MlgraphError(
            f"{program.name} is not the program of a submodule, so {type(model).__name__} has no place "
            "for it; capture it with module="
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    old = modules.get(path)
    if old is None:
        raise MlgraphError(f"{type(model).__name__} has no submodule {path}, where {program.name} came from")
    _share_again(emitted, old, model, path)
    for name, value in vars(old).items():
        if not name.startswith("_") and name not in vars(emitted) and not hasattr(type(emitted), name):
            setattr(emitted, name, value)
    emitted.train(old.training)
    memo: dict[int, Any] = {id(old): emitted}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = tensor
    return copy.deepcopy(model, memo)


def _share_again(emitted: nn.Module, old: nn.Module, model: nn.Module, path: str) -> None:
    inside = {id(module) for module in old.modules()}
    outside = {
        id(tensor): f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if id(module) not in inside
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None
    }
    held = dict(emitted.named_parameters(remove_duplicate=False))
    for name, tensor in old.named_parameters(remove_duplicate=False):
        other = outside.get(id(tensor))
        if other is None or name not in held:
            continue
        new = held[name]
        if new.shape != tensor.shape or not torch.equal(new.detach().to(tensor), tensor.detach()):
            raise MlgraphError(
                f"{path}.{name} is {other} of {type(model).__name__} too, and was changed in one of the two "
                "places: freeze its axes, or untie the two before capturing"
            )
        owner, _, leaf = name.rpartition(".")
        emitted.get_submodule(owner)._parameters[leaf] = tensor
