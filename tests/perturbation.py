"""Noise on a fresh model, so that no parameter has a value that hides mistakes."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def perturb_(model: nn.Module, scale: float = 0.1) -> None:
    """Add noise to every floating-point parameter and running statistic, in place.

    A fresh norm's gain of 1 and bias of 0 are the same under any permutation and any mean, so a
    wrong treatment of them would show nowhere.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(scale * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(scale * torch.randn_like(buffer))
        elif name.endswith("running_var"):
            buffer.mul_(1 + scale * torch.rand_like(buffer))
