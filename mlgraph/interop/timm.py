"""Programs as timm models: live, or a safetensors file and the ``create_model`` call that loads it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mlgraph.files import write_bytes, write_text
from mlgraph.interop.fitting.advice import INSTEAD
from mlgraph.interop.fitting.fit import Fit, Fitter, NotExpressible
from mlgraph.interop.model_card import write_card
from mlgraph.interop.same_outputs import check_outputs
from mlgraph.program import Program, TimmOrigin

if TYPE_CHECKING:
    from mlgraph.interop.fitting.config_tree import ConfigTree

__all__ = ["SavedTimm", "express", "save_timm", "to_timm"]

# Arguments of create_model itself that fill a model with weights.
_LOADING = ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay")


@dataclass(frozen=True)
class SavedTimm:
    """What ``save_timm`` wrote: the weights, the call that loads them, and the changed arguments."""

    path: Path
    model: str
    kwargs: Mapping[str, Any]
    changes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def call(self) -> str:
        """Python code that makes the model with its weights."""
        arguments = [repr(self.model), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"timm.create_model({', '.join(arguments)}, checkpoint_path={str(self.path)!r})"


def express(program: Program, as_class: bool = False) -> tuple[dict[str, Any], Fit]:
    """The keyword arguments of ``create_model`` with which the model computes what the program computes.

    ``program.origin`` must say which model it came from.

    Raises:
        NotExpressible: no arguments do, or the program did not come from timm.
    """
    origin = _origin(program)
    name = origin.model
    given = {key: value for key, value in origin.kwargs.items() if key not in _LOADING}
    base = {**_plain(effective_arguments(name, given)), **given}

    def arguments(settings: ConfigTree) -> dict[str, Any]:
        changed = {key: value for key, value in settings.items() if key not in base or value != base[key]}
        return {key: _tuples(value) for key, value in {**given, **changed}.items()}

    def shapes(settings: ConfigTree) -> dict[str, tuple[int, ...]]:
        with _shapes_only():
            model = _create(name, arguments(settings))
        return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}

    def model(settings: ConfigTree) -> nn.Module:
        return _create(name, arguments(settings))

    try:
        fit = Fitter(program, base, shapes, model, name, as_class).fit()
    except NotExpressible as error:
        fixed = _fixed_arguments(name, given, base)
        if fixed:
            raise NotExpressible(
                f"timm's {name} fixes {', '.join(fixed)}, so that no create_model call gives another; "
                f"{INSTEAD}.",
                error.stays,
                error.what,
            ) from error
        raise
    return arguments(fit.settings), fit


def _origin(program: Program) -> TimmOrigin:
    origin = program.origin
    if not isinstance(origin, TimmOrigin) or not origin.model:
        raise NotExpressible(
            f"{program.name} did not come from timm.create_model, so no call expresses it; {INSTEAD}."
        )
    return origin


def to_timm(program: Program) -> nn.Module:
    """A live timm model with the program's values (copied). Raises ``NotExpressible``."""
    arguments, fit = express(program)
    model = _create(_origin(program).model, arguments)
    model.load_state_dict(_state(program, fit))
    return model.eval()


def save_timm(program: Program, path: str | os.PathLike[str], *, as_class: bool = False) -> SavedTimm:
    """Write the program's weights to the safetensors file ``path`` for ``timm.create_model`` to load.

    Beside it, a JSON file of the same stem holds the model's name, the arguments and the call, and an .md
    file its card. The model is loaded again, and its outputs are compared with those of the emitted module.
    With ``as_class``, constants that the model makes from its arguments may be other than the program's;
    notes say which and how far outputs move.

    Raises:
        NotExpressible: no arguments give a model that computes what the program computes.
        FileError: the files cannot be written.
    """
    from safetensors.torch import save

    target = Path(path)
    arguments, fit = express(program, as_class)
    state = _state(program, fit)
    model = _create(_origin(program).model, arguments)
    model.load_state_dict(state)
    moved = check_outputs(program, model.eval(), math.inf if fit.constants else None)
    write_bytes(target, save(state, metadata={"format": "pt"}))
    saved = SavedTimm(
        target, _origin(program).model, arguments, tuple(map(str, fit.changes)), _told(fit, moved)
    )
    write_card(program, target.with_suffix(".md"), None, saved.changes)
    facts = {"model": saved.model, "kwargs": arguments, "call": saved.call}
    write_text(target.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
    return saved


def _told(fit: Fit, moved: float) -> tuple[str, ...]:
    if not fit.constants:
        return fit.notes
    return (*fit.notes, f"with these constants outputs move by up to {moved:.1e} of the largest")


def effective_arguments(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument with which ``create_model(name, **kwargs)`` constructs its class, defaults included."""
    with _shapes_only():
        kind = type(_create(name, kwargs))
    calls: list[dict[str, Any]] = []
    with _recorded(kind, calls), _shapes_only():
        _create(name, kwargs)
    return calls[0] if calls else dict(kwargs)


# fmt: off
_FILLING = {
    "add_", "bernoulli_", "clamp_", "constant_", "copy_", "div_", "erfinv_", "exponential_",
    "fill_", "kaiming_normal_", "kaiming_uniform_", "mul_", "normal_", "ones_", "sub_",
    "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zero_", "zeros_",
}
# fmt: on


class _NoValues(TorchFunctionMode):
    """Ops that fill a tensor on the meta device from numbers do nothing: they are most of making a model.

    Ops with a second tensor run, for they may refuse its shape.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLING:
            filled = args[0] if args else None
            lone = not any(isinstance(other, torch.Tensor) for other in (*args[1:], *kwargs.values()))
            if lone and isinstance(filled, torch.Tensor) and filled.device.type == "meta":
                return filled
        return func(*args, **kwargs)


@contextlib.contextmanager
def _shapes_only() -> Iterator[None]:
    """What is made in this context has shapes and no values."""
    with torch.device("meta"), _NoValues():
        yield


@contextlib.contextmanager
def _recorded(kind: type, calls: list[dict[str, Any]]) -> Iterator[None]:
    construct: Any = kind.__init__  # type: ignore[misc]
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        named = dict(list(bound.arguments.items())[1:])
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named.update(named.pop(parameter.name, {}))
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                named.pop(parameter.name, None)
        calls.append(named)
        construct(self, *args, **kwargs)

    with mock.patch.object(kind, "__init__", recording):
        yield


def _create(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, **kwargs)  # type: ignore[no-any-return]


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _fixed_arguments(name: str, given: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Arguments that a model's entry function sets itself and refuses to be given."""
    fixed = []
    for key, value in base.items():
        if key in given or value is None or isinstance(value, bool | str):
            continue
        try:
            with _shapes_only():
                _create(name, {**given, key: _tuples(value)})
        except (TypeError, KeyError) as error:
            # for an argument given twice Python raises either, depending on how the code is run
            if "multiple values" in str(error) or error.args == (key,):
                fixed.append(key)
        except Exception:  # a class may reject arguments with any exception at all
            continue
    return fixed


def _state(program: Program, fit: Fit) -> dict[str, torch.Tensor]:
    tensors = program.tensors
    names = [name for name in [*tensors, *tensors.aliases] if name in tensors.persistent]
    return {name: fit.value(program, tensors.aliases.get(name, name)).clone().contiguous() for name in names}
