"""The casts that autocast makes before an op, found by running it so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

Region = tuple[str, torch.dtype, bool]


@contextlib.contextmanager
def on_fakes(mode: FakeTensorMode | None) -> Iterator[None]:
    """A context in which ops run on fake tensors of symbolic sizes, without gradients."""
    assert mode is not None
    # in C++, composite ops of torch 2.11 know no symbolic sizes
    with mode, enable_python_dispatcher(), torch.no_grad():
        yield


class _Casts(TorchDispatchMode):
    """The first dtype that each of some tensors is cast to."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors = tensors
        self.found: dict[int, torch.dtype] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten._to_copy.default and kwargs.get("dtype") is not None:
            for index, tensor in enumerate(self.tensors):
                if args[0] is tensor:
                    self.found.setdefault(index, kwargs["dtype"])
        return func(*args, **kwargs)


def casts(
    target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], mode: FakeTensorMode, region: Region
) -> tuple[list[torch.dtype | None], Any]:
    """Per tensor among the flat arguments, the dtype to which autocast brings it; and the result.

    The arguments are fake. Raises whatever the op raises.
    """
    device, dtype, _ = region
    leaves = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, FakeTensor)]
    seen = []
    result = None
    for enabled in (False, True):
        log = _Casts(leaves)
        off = torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)
        try:
            with on_fakes(mode), log, off:
                result = target(*args, **kwargs)
        except RuntimeError:
            # outside of autocast an op may not take mixed dtypes
            if enabled:
                raise
        seen.append(log.found)
    without, within = seen
    return [
        within.get(i) if within.get(i) is not without.get(i) else None for i in range(len(leaves))
    ], result
