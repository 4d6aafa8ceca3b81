"""``tensor.data``, which autograd and tracers do not see, as ``detach``, which they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_GET: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_SET: Any = torch.Tensor.data.__set__  # type: ignore[attr-defined]


def with_data_detached(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a call gives, where ``x.data`` is ``x.detach()`` and an assignment to it a copy."""
    if func == _GET:
        return args[0].detach()
    if func == _SET and args[0].shape == args[1].shape and args[0].dtype is args[1].dtype:
        args[0].detach().copy_(args[1].detach())
        return None
    return func(*args, **(kwargs or {}))


class DataDetached(TorchFunctionMode):
    """While a model runs: writes to ``x.data`` count as writes to ``x``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return with_data_detached(func, args, kwargs)
