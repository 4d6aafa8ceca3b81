"""Labels for a transformers head, made to the shape of what it predicts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mlgraph.capture.inputs.named_results import by_name


def add_loss(
    model: nn.Module,
    kwargs: dict[str, Any],
    output: Mapping[str, Any],
    config: Mapping[str, Any],
    signature: inspect.Signature,
) -> dict[str, Any]:
    """``kwargs`` with what makes the model return a loss, or as they were where nothing does.

    ``output`` is what the model gives for ``kwargs``. The model is run on every candidate.
    """
    names = [name for name in signature.parameters if name in _LABELS]
    if not names:
        return kwargs
    predicted = _predicted(output)
    for dense in (False, True):
        extra = {name: _LABELS[name](predicted, kwargs, config, dense) for name in names}
        if any(value is None for value in extra.values()):
            continue
        call = {**kwargs, **extra}
        try:
            loss = by_name(model(**call)).get("loss")
        except Exception:  # labels of this shape are not what the head wants; try the next
            continue
        if isinstance(loss, torch.Tensor) and loss.dim() == 0:
            return call
    return kwargs


def _predicted(output: Mapping[str, Any]) -> torch.Tensor | None:
    named = [value for name, value in output.items() if "logits" in name]
    tensors = [value for value in [*named, *output.values()] if isinstance(value, torch.Tensor)]
    return next((tensor for tensor in tensors if tensor.dim() >= 2), None)


def _labels(
    predicted: torch.Tensor | None, kwargs: Mapping[str, Any], _config: Mapping[str, Any], dense: bool
) -> torch.Tensor | None:
    """Class indices for ``[batch, …, classes]``, or with ``dense`` a map at the input's resolution."""
    if predicted is None:
        return None
    if dense:
        picture = kwargs.get("pixel_values")
        if picture is None or predicted.dim() != 4:
            return None
        shape: tuple[int, ...] = (picture.shape[0], *picture.shape[-2:])
        classes = predicted.shape[1]
    else:
        shape, classes = tuple(predicted.shape[:-1]), predicted.shape[-1]
    if classes == 1:
        return torch.zeros(shape, dtype=predicted.dtype, device=predicted.device)
    return torch.randint(classes, shape).to(predicted.device)


def _index(
    _predicted: torch.Tensor | None, kwargs: Mapping[str, Any], _config: Mapping[str, Any], _dense: bool
) -> torch.Tensor | None:
    """One small index for each example: a token position or a choice of two."""
    ids = kwargs.get("input_ids")
    return None if ids is None else torch.randint(2, (ids.shape[0],)).to(ids.device)


def _return_loss(*_: Any) -> bool:
    return True


_LABELS: Mapping[str, Callable[..., Any]] = {
    "labels": _labels,
    "next_sentence_label": _index,
    "start_positions": _index,
    "end_positions": _index,
    "return_loss": _return_loss,
}
