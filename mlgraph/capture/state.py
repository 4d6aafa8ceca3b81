"""What a model holds: copies of its tensors to run on, and its own state as it was before it ran."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from mlgraph.program.tensors import is_fake


class State:
    """Modes, buffers, plain attributes and tensors among them, of every module of a model, at one time."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._attributes = [dict(module.__dict__) for module in self._modules]
        self._buffers = [dict(module._buffers) for module in self._modules]
        self._parameters = [dict(module._parameters) for module in self._modules]
        plain = [v for held in self._attributes for v in held.values() if isinstance(v, torch.Tensor)]
        tensors = {id(t): t for t in [*model.buffers(), *plain] if not is_fake(t)}
        self._values = [(t, t._version, t.detach().clone()) for t in tensors.values()]

    def restore(self) -> None:
        """Put everything back."""
        held = zip(self._modules, self._attributes, self._buffers, self._parameters, strict=True)
        for module, attributes, buffers, parameters in held:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
        with torch.no_grad():
            for tensor, version, value in self._values:
                if tensor._version != version and not _identical(tensor, value):
                    tensor.copy_(value)

    def changed(self) -> list[str]:
        """The attributes in plain sight (numbers, tensors) that are others than they were."""
        found = []
        for module, before in zip(self._modules, self._attributes, strict=True):
            for key, value in module.__dict__.items():
                old = before.get(key)
                plain = isinstance(value, bool | int | float | str | torch.Tensor | None)
                if plain and old is not value and (isinstance(value, torch.Tensor) or old != value):
                    found.append(f"{type(module).__name__}.{key}")
        written = {id(t) for t, version, _ in self._values if t._version != version}
        for module, before in zip(self._modules, self._attributes, strict=True):
            found += [f"{type(module).__name__}.{key}" for key, v in before.items() if id(v) in written]
        return [name for name in dict.fromkeys(found) if not name.endswith(".training")]


def _identical(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first, second) and not bool(first.isnan().any())


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Leave modes, buffers, plain attributes and the random state as they were."""
    state = State(model)
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            state.restore()


def sharing(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
    """Names of tensors that are different objects in the same memory."""
    holders: defaultdict[Any, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.layout is torch.strided and not is_fake(tensor) and tensor.numel():
            holders[tensor.untyped_storage().data_ptr()].append(name)
    return [tuple(names) for names in holders.values() if len(names) > 1]


def copies(
    tensors: Mapping[str, torch.Tensor],
    training: bool,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors anew: what lay in the same memory does so again, what took gradients takes them.

    Those that are ``change``d are apart.
    """
    joint = {name for names in sharing(tensors) for name in names}
    storages: dict[int, Any] = {}
    made = {}
    for name, tensor in tensors.items():
        if name in joint:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in storages:
                storages[storage.data_ptr()] = storage.clone()
            place = (tensor.storage_offset(), tensor.shape, tensor.stride())
            copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            copy = copy.set_(storages[storage.data_ptr()], *place)
        else:
            copy = tensor.detach().clone()
        if change is not None:
            copy = change(copy).detach()
        made[name] = copy.requires_grad_() if training and tensor.requires_grad else copy
    return made
