"""Example inputs written as text: ``int64[3,7]``, ``ids=int64[3,7]<100``, ``x=float32[3,16]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from mlgraph.errors import CaptureError

_SPEC = re.compile(r"(?:(\w+)=)?(\w+)\[([\d,\s]*)\](?:<(\d+))?")
_DEFAULT_BOUND = 2


def parse_inputs(specs: Iterable[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for texts ``[NAME=]DTYPE[SIZES][<BOUND]``.

    Floating-point tensors are standard normal; integers lie below BOUND, 2 by default; booleans are
    random. Raises CaptureError at a text of another form.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for spec in specs:
        found = _SPEC.fullmatch(spec.strip())
        dtype = getattr(torch, found.group(2), None) if found else None
        if found is None or not isinstance(dtype, torch.dtype):
            raise CaptureError(
                f"--input {spec} is not [NAME=]DTYPE[SIZES]; write for example ids=int64[3,7]."
            )
        name, _, sizes, bound = found.groups()
        shape = [int(size) for size in sizes.split(",") if size.strip()]
        tensor = _tensor(shape, dtype, int(bound or _DEFAULT_BOUND))
        if name is not None:
            kwargs[name] = tensor
        elif kwargs:
            raise CaptureError(f"--input {spec} has no name but follows one that has; name it too.")
        else:
            args.append(tensor)
    return tuple(args), kwargs


def _tensor(shape: list[int], dtype: torch.dtype, bound: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(bound, shape, generator=generator).to(dtype)
