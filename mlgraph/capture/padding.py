"""Padding that torch's encoders leave out in evaluation, and a graph does not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.capture.state import preserved
from mlgraph.program import Note

if TYPE_CHECKING:
    from mlgraph.capture.export import Call

# What an encoder of torch's calls once it has seen that all is in place for its fast path.
_MAKES_NESTED = "_nested_tensor_from_mask"


def padding_left_out(model: nn.Module, call: Call) -> list[Note]:
    """Notes on the encoders that compute on nested tensors, without padded positions, on a call.

    ``nn.TransformerEncoder`` does so in evaluation without gradients, and gives zeros for them.
    """
    paths = {id(m): path for path, m in model.named_modules() if isinstance(m, nn.TransformerEncoder)}
    if not paths:
        return []
    found: list[str] = []
    make = getattr(torch, _MAKES_NESTED)

    def seen(*args: Any, **kwargs: Any) -> Any:
        encoder = sys._getframe(1).f_locals.get("self")
        found.append(paths.get(id(encoder), ""))
        return make(*args, **kwargs)

    setattr(torch, _MAKES_NESTED, seen)
    try:
        with preserved(model), torch.no_grad():
            model.eval()
            given = call.map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf)
            model(*given.args, **given.kwargs)
    except Exception:  # what stands in its way is told where the model is compared
        return []
    finally:
        setattr(torch, _MAKES_NESTED, make)
    said = (
        "gives zeros at padded positions in evaluation without gradients (torch's fast path), where the "
        "program computes them as in training; the model does so too after "
        "torch.backends.mha.set_fastpath_enabled(False)"
    )
    return [Note("mode", f"{path or 'an encoder'} {said}", path) for path in dict.fromkeys(found)]
