"""What a model holds: copies of its tensors to run on, and its own state as it was before it ran."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import nn

from mlgraph.program.tensors import is_fake

# Parameters of a model with more bytes than this are not copied to be put back.
_LIGHT = 1 << 28
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
_PLAIN = (bool, int, float, str, type(None))
# What every module has is no state that a model's own code keeps.
_OF_ANY_MODULE = frozenset(nn.Module().__dict__)


class State:
    """Modes, tensors, attributes and containers of every module of a model, and Python's and NumPy's draws.

    Parameters are held by their values where they are small; those that a large model writes are to be named
    by :meth:`hold`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._attributes = [dict(module.__dict__) for module in self._modules]
        self._buffers = [dict(module._buffers) for module in self._modules]
        self._parameters = [dict(module._parameters) for module in self._modules]
        self._passing = [set(module._non_persistent_buffers_set) for module in self._modules]
        self._containers = list(_containers(zip(self._modules, self._attributes, strict=True)))
        plain = [v for held in self._attributes for v in held.values() if isinstance(v, torch.Tensor)]
        self._values: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}
        self.hold([*model.buffers(), *plain])
        parameters = list(model.parameters())
        if bytes_of(parameters) <= _LIGHT:
            self.hold(parameters)
        self._draws = random.getstate(), numpy.random.get_state()

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put these tensors back too, as they are now."""
        for tensor in tensors:
            if not is_fake(tensor) and id(tensor) not in self._values:
                self._values[id(tensor)] = tensor, version(tensor), tensor.detach().clone()

    def restore(self, modes: bool = True, unseen: bool = False) -> None:
        """Put everything back; the modes stay where not ``modes``.

        With ``unseen``, tensors are looked at too that were written to behind autograd's back, if at all.
        """
        kept = (self._attributes, self._buffers, self._parameters, self._passing)
        for module, attributes, buffers, parameters, passing in zip(self._modules, *kept, strict=True):
            now = module.training
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(passing)
            module.training = module.training if modes else now
        for _, container, content in self._containers:
            if not _same(container, content):
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(content)
        with torch.no_grad():
            for tensor, before, value in self._values.values():
                if (unseen or version(tensor) != before) and not _identical(tensor, value):
                    tensor.copy_(value)
        random.setstate(self._draws[0])
        numpy.random.set_state(self._draws[1])

    def changed(self) -> list[str]:
        """What is not as it was: attributes in plain sight (numbers, tensors, containers), and draws."""
        found = [
            f"{type(module).__name__}.{key}"
            for module, before in zip(self._modules, self._buffers, strict=True)
            for key in module._buffers
            if key not in before
        ]
        for module, before in zip(self._modules, self._attributes, strict=True):
            for key, value in module.__dict__.items():
                old = before.get(key)
                plain = isinstance(value, (*_PLAIN, torch.Tensor))
                if plain and old is not value and (isinstance(value, torch.Tensor) or old != value):
                    found.append(f"{type(module).__name__}.{key}")
        written = {id(t) for t, before, _ in self._values.values() if version(t) != before}
        for module, before in zip(self._modules, self._attributes, strict=True):
            found += [f"{type(module).__name__}.{key}" for key, v in before.items() if id(v) in written]
        found += [name for name, container, content in self._containers if not _same(container, content)]
        if random.getstate() != self._draws[0]:
            found.append("Python's random numbers")
        if not all(map(numpy.array_equal, numpy.random.get_state(), self._draws[1])):
            found.append("NumPy's random numbers")
        return [name for name in dict.fromkeys(found) if not name.endswith(".training")]


def version(tensor: torch.Tensor) -> int:
    """A number that grows as a tensor is written to; those made in inference mode do not tell."""
    return 0 if tensor.is_inference() else tensor._version


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """How many bytes some tensors take; those that are not dense, at most."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _containers(held: Iterable[tuple[nn.Module, Mapping[str, Any]]]) -> Iterator[tuple[str, Any, Any]]:
    """Lists, dicts and sets that modules hold, those inside of others too: a name, itself, its content."""
    seen: set[int] = set()
    for module, attributes in held:
        own = [(f"{type(module).__name__}.{k}", v) for k, v in attributes.items() if k not in _OF_ANY_MODULE]
        for name, attribute in own:
            yield from ((name, value, _content(value)) for value in _inside(attribute, seen))


def _inside(value: Any, seen: set[int]) -> Iterator[Any]:
    """The containers in a value, itself included, that were not seen yet."""
    pending = [value]
    while pending:
        value = pending.pop()
        if type(value) in _CONTAINERS and id(value) not in seen:
            seen.add(id(value))
            yield value
            pending += value.values() if isinstance(value, dict) else value


def _content(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _same(container: Any, content: Any) -> bool:
    if isinstance(container, set):
        return container == set(content)
    now = _content(container)
    if isinstance(now, dict):
        if now.keys() != content.keys():
            return False
        now, content = list(now.values()), list(content.values())
    return len(now) == len(content) and all(
        a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)
        for a, b in zip(now, content, strict=True)
    )


def _identical(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first, second) and not bool(first.isnan().any())


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[State]:
    """Leave the model's state and the random state as they were; the state is given, to be put back early."""
    state = State(model)
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            yield state
        finally:
            state.restore(unseen=True)


def overlapping(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
    """Names of tensors that are different objects and lie, in part at least, in the same bytes."""
    found: list[tuple[str, ...]] = []
    for names in sharing(tensors):
        spans = sorted((*_span(tensors[name]), name) for name in names)
        group, end = [spans[0][2]], spans[0][1]
        for first, last, name in spans[1:]:
            if first < end:
                group.append(name)
            else:
                found.append(tuple(group))
                group = [name]
            end = max(end, last)
        found.append(tuple(group))
    order = {name: at for at, name in enumerate(tensors)}
    return [tuple(sorted(group, key=order.__getitem__)) for group in found if len(group) > 1]


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one after its last."""
    dims = zip(tensor.shape, tensor.stride(), strict=True)
    extent = 1 + sum((int(size) - 1) * int(stride) for size, stride in dims)
    first = int(tensor.storage_offset()) * tensor.element_size()
    return first, first + extent * tensor.element_size()


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
