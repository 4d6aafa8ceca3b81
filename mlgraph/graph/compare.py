"""How far two values differ."""

from __future__ import annotations

import torch


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference over the largest finite magnitude expected.

    Infinite for other shapes, other integers, and where one is finite and the other not. Worked out in
    float64.
    """
    if found.shape != expected.shape:
        return float("inf")
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(found, expected) else float("inf")
    if not found.numel():
        return 0.0
    if not expected.is_complex():
        found, expected = found.double(), expected.double()
    both = torch.isfinite(expected)
    if not torch.equal(both, torch.isfinite(found)):
        return float("inf")
    if not bool(both.any()):
        return 0.0
    scale = expected[both].abs().max().clamp_min(1e-12)
    return float((found[both] - expected[both]).abs().max() / scale)
