"""Example inputs for a model that says, by its configuration, what it takes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mlgraph.capture.inputs.losses import add_loss
from mlgraph.capture.inputs.named_results import by_name
from mlgraph.capture.inputs.origin import is_huggingface, is_timm
from mlgraph.capture.inputs.primes import Primes
from mlgraph.capture.inputs.tensors import InputRequest, attempts, build
from mlgraph.errors import CaptureError, first_line

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def example_inputs(model: nn.Module, loss: bool = True) -> Arguments:
    """Positional and keyword arguments on which ``model`` runs.

    The model is a transformers or a timm model, on any device. Batch and sequence sizes are small
    primes, distinct from each other and from the numbers in its configuration; key-value caches are off;
    with ``loss``, labels are among the arguments where the head then returns a loss. The model is run, in
    eval mode and without gradients, to find out. Raises CaptureError for other models and where no
    known kind of input fits.
    """
    if is_huggingface(model):
        return (), _huggingface_inputs(model, loss)
    if is_timm(model):
        return (_timm_image(model),), {}
    raise CaptureError(
        f"What {type(model).__name__} takes is not known; give example inputs, with "
        f"{' '.join(f'--input {name}=float32[2,8]' for name in _required(model) or ['x'])} (or int64, and "
        "sizes that fit) "
        "on the command line, as args or kwargs in Python."
    )


def _required(model: nn.Module) -> list[str]:
    """The arguments that a model has to be given."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


def needs_inputs(model: nn.Module) -> bool:
    """Whether calling ``model`` without arguments cannot be meant."""
    if is_huggingface(model) or is_timm(model):
        return True
    return bool(_required(model))


def try_inputs(model: nn.Module, call: Arguments) -> None:
    """Run ``model`` on inputs that a user gave; raises CaptureError with its shapes where it does not run."""
    args, kwargs = call
    try:
        with trial(model):
            model(*args, **kwargs)
    except Exception as error:  # any error of the model's own code says that the inputs do not fit
        named = [*(("", value) for value in args), *((f"{name}=", value) for name, value in kwargs.items())]
        given = ", ".join(f"{name}{list(value.shape)}" for name, value in named)
        raise CaptureError(
            f"{type(model).__name__} does not run on inputs of shape {given}: "
            f"{first_line(error)}; give others."
        ) from error


@contextlib.contextmanager
def trial(model: nn.Module) -> Iterator[None]:
    """Runs inside leave the model's mode and the random state as they were."""
    training = model.training
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def _huggingface_inputs(model: nn.Module, loss: bool) -> dict[str, Any]:
    signature = inspect.signature(model.forward)
    config = model.config.to_dict()  # type: ignore[operator, union-attr]
    failure: Exception | None = None
    with trial(model):
        torch.manual_seed(0)
        for attempt in attempts(config):
            request = InputRequest(model, config, signature, attempt, Primes(config))
            kwargs = build(request)
            try:
                output = _without_cache(model, kwargs)
            except Exception as error:  # any error of the model's own code says that the inputs do not fit
                failure = failure or error
                continue
            kwargs = _without_mask_if_causal(model, kwargs)
            return add_loss(model, kwargs, output, config, signature) if loss else kwargs
    reason = first_line(failure) if failure is not None else "nothing fits its forward"
    raise CaptureError(
        f"No example inputs could be made for {type(model).__name__} ({reason}); give args or kwargs."
    )


def _without_cache(model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The results by name; ``kwargs`` say to keep no keys and values where the model would."""
    output = dict(by_name(model(**kwargs)))
    if output.get("past_key_values") is None:
        return output
    kwargs["use_cache"] = False
    return dict(by_name(model(**kwargs)))


def _without_mask_if_causal(model: nn.Module, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave the padding mask to bidirectional models: a causal one trains on packed sequences.

    A model is causal when its first position does not see a change of the last token.
    """
    ids = kwargs.get("input_ids")
    if "attention_mask" not in kwargs or "decoder_input_ids" in kwargs or ids is None or ids.is_meta:
        return kwargs
    if "pixel_values" in kwargs or ids.dim() != 2:
        return kwargs
    bare = {name: value for name, value in kwargs.items() if name != "attention_mask"}
    other = ids.clone()
    other[:, -1] = torch.where(ids[:, -1] == ids[:, 0], ids[:, 1], ids[:, 0])
    with contextlib.suppress(Exception):  # a model that insists on its mask keeps it
        first, second = (_leading(model(**{**bare, "input_ids": value})) for value in (ids, other))
        per_token = first is not None and first.dim() >= 3 and first.shape[1] == ids.shape[1]
        if per_token and torch.equal(first[:, 0], second[:, 0]):
            return bare
    return kwargs


def _leading(output: Any) -> Any:
    values = by_name(output).values()
    tensors = (value for value in values if isinstance(value, torch.Tensor) and value.dim() > 1)
    return next(tensors, None)


def _timm_image(model: nn.Module) -> torch.Tensor:
    config = getattr(model, "pretrained_cfg", {})
    channels, *size = config.get("input_size", (3, 224, 224))
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is not None:
        channels = convolution.in_channels * (1 if convolution.groups == 1 else convolution.groups)
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    size = list(built_for or size)
    parameter = next(model.parameters())
    batch = Primes({"size": [channels, *size]}).next(least=3)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, channels, *size, generator=generator)
    return image.to(device=parameter.device, dtype=parameter.dtype)
