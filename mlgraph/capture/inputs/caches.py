"""Key-value caches, which a model keeps between calls and a program does not."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph.capture.export import Call, has_values
from mlgraph.capture.inputs.example import trial
from mlgraph.program import Note

_OPTION = "use_cache"
_PLAIN = (torch.Tensor, bool, int, float, complex, str, type(None))


def without_caches(model: nn.Module, call: Call) -> tuple[Call, tuple[Note, ...]]:
    """The call with caches turned off where the model would return one, and a note that says so.

    That is known by running the model, in evaluation and without gradients. A caller who says whether caches
    are used is obeyed.
    """
    if _OPTION not in call.parameters or _OPTION in call.kwargs or not has_values(model):
        return call, ()
    try:
        with trial(model):
            result = model(*call.args, **call.kwargs)
    except Exception:  # what stands in the way will do so when the model is traced, and be told there
        return call, ()
    found = next((leaf for leaf in pytree.tree_leaves(result) if not isinstance(leaf, _PLAIN)), None)
    if found is None or dataclasses.is_dataclass(found):
        return call, ()
    given = {**call.kwargs, _OPTION: False}
    ordered = {name: given[name] for name in [*call.parameters, *given] if name in given}
    kind = type(found).__name__
    said = f"captured with {_OPTION}=False, for a program keeps no {kind} from one call to the next"
    return dataclasses.replace(call, kwargs=ordered), (Note("call", said, _OPTION),)
