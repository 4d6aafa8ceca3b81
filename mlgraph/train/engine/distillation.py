"""A teacher's share in the loss: how far the distributions that two models predict lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from mlgraph.train.errors import TrainError


def divergence(outputs: Any, teacher: Any) -> torch.Tensor:
    """Kullback-Leibler divergence from the teacher's predictions to the student's, in nats.

    Mean over all positions; the logits are ``[..., classes]``.
    """
    student, wanted = (F.log_softmax(logits_of(found).float(), dim=-1) for found in (outputs, teacher))
    return F.kl_div(student, wanted, reduction="none", log_target=True).sum(-1).mean()


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits among a model's outputs: the tensor itself, or the entry of that name.

    Raises:
        TrainError: there are none.
    """
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    if not isinstance(found, torch.Tensor):
        raise TrainError(
            "distill compares logits, and the model returns none: return a tensor, or one named logits."
        )
    return found
