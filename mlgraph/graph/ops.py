"""Operations a program uses that ATen has no single op for."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def drop_path(x: torch.Tensor, p: float, dims: Sequence[int], training: bool) -> torch.Tensor:
    """Stochastic depth (Huang et al., 2016): drop whole slices of ``x``, scale the rest by ``1 / (1 - p)``.

    ``dims`` are the dims of ``x`` along which the draws are independent; ``[0]`` draws once per sample.
    With ``training`` false, or ``p`` 0, ``x`` is returned.
    """
    if not training or p == 0.0:
        return x
    shape = [size if dim in dims else 1 for dim, size in enumerate(x.shape)]
    keep = 1.0 - p
    mask = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep)
    if keep > 0.0:
        mask = mask / keep
    return x * mask


RANDOM = frozenset({drop_path})
"""Functions of this module that draw random numbers."""
