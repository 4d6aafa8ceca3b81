"""Transformers models without memory: real in every way but the bytes of their parameters."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from mlgraph.errors import FileError

_Held = TypeVar("_Held", bound=torch.Tensor)


# Classes of code that model directories brought, which the user trusted and which is loaded already.
_BROUGHT: dict[str, type[nn.Module]] = {}


def bring(cls: type[nn.Module]) -> None:
    """Let a class of a model directory's own code be found by its name in this process."""
    _BROUGHT[cls.__name__] = cls


def architecture(name: str) -> type[nn.Module]:
    """The class of this name that a directory brought or that transformers has. Raises FileError."""
    import transformers

    found = _BROUGHT.get(name) or getattr(transformers, name, None)
    if found is None:
        raise FileError(
            f"transformers {transformers.__version__} has no class {name!r}; install a version that has it, "
            "or open the directory that brings it with --trust (in Python, trust=True)."
        )
    return found  # type: ignore[no-any-return]


def configuration(settings: Mapping[str, Any], name: str) -> Any:
    """The config object of ``settings``, in the config class of their ``model_type`` or else that of
    ``name``.
    """
    from transformers import CONFIG_MAPPING

    model_type = settings.get("model_type")
    standard = model_type in CONFIG_MAPPING and name not in _BROUGHT
    known: Any = CONFIG_MAPPING[model_type] if standard else architecture(name).config_class  # type: ignore[attr-defined]
    return known.from_dict(copy.deepcopy(dict(settings)))


def on_meta(name: str, config: Any) -> nn.Module:
    """A model of class ``name`` with every tensor on the meta device."""
    from transformers import initialization

    with (
        torch.device("meta"),
        _default_dtype(config),
        initialization.meta_device_safe_creation_ops(),
        initialization.no_init_weights(),
    ):
        return architecture(name)(config)


def hollow(name: str, config: Any) -> nn.Module:
    """A model of class ``name`` whose parameters are fake tensors on the CPU and whose buffers are real.

    It can be run and captured at no memory. Buffers outside the state dict have the values that loading a
    checkpoint gives them; those inside are zeros, for the checkpoint to fill.
    """
    model = on_meta(name, config)
    model.tie_weights()  # type: ignore[operator]
    _restore_buffers(model)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    made: dict[nn.Parameter, nn.Parameter] = {}
    with mode:
        for parameter in model.parameters():
            fake = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype)
            made[parameter] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
    for module in model.modules():
        for key, parameter in _present(module._parameters):
            module._parameters[key] = made[parameter]
    return model.eval()


def _present(slots: Mapping[str, _Held | None]) -> list[tuple[str, _Held]]:
    """The parameters or buffers of a module that are there."""
    return [(key, held) for key, held in slots.items() if held is not None]


def _restore_buffers(model: nn.Module) -> None:
    """Fill buffers as ``from_pretrained`` does: by the model's own initialisation, all else left alone."""
    for module in model.modules():
        for key, buffer in _present(module._buffers):
            fresh = torch.zeros_like(buffer, device="cpu")
            if key not in module._non_persistent_buffers_set:
                fresh._is_hf_initialized = True  # type: ignore[attr-defined]
            module._buffers[key] = fresh
        module.__dict__.pop("_is_hf_initialized", None)
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
    with torch.no_grad():
        model.initialize_weights()  # type: ignore[operator]


@contextlib.contextmanager
def _default_dtype(config: Any) -> Iterator[None]:
    dtype = getattr(config, "dtype", None)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    before = torch.get_default_dtype()
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
