"""Example tensors by the names that transformers models give to their arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mlgraph.capture.inputs.primes import Primes, find
from mlgraph.errors import CaptureError

_LEAST_SEQUENCE = 7
_OFFERED = (
    "input_ids",
    "attention_mask",
    "decoder_input_ids",
    "pixel_values",
    "input_features",
    "input_values",
)


@dataclass(frozen=True)
class Attempt:
    """One way to fill in what the configuration leaves open."""

    sequence: int | None = None
    choices: bool = False
    frames_first: bool = False
    images: bool = True


@dataclass(frozen=True)
class InputRequest:
    """What inputs are made from: the model, its configuration and the arguments of its forward."""

    model: nn.Module
    config: Mapping[str, Any]
    signature: inspect.Signature
    attempt: Attempt
    sizes: Primes


def attempts(config: Mapping[str, Any]) -> Iterator[Attempt]:
    """The ways to try, likeliest first.

    A sequence of 64 suits models that work in windows or chunks, and ``choices`` those that score several
    sequences each; ``images`` off leaves pictures out of models that read text alone as well.
    """
    yield Attempt()
    yield Attempt(frames_first=True)
    yield Attempt(images=False)
    yield Attempt(choices=True)
    yield Attempt(sequence=64)
    chunk = find(config, "chunk_size", "attention_window", "block_size")
    if isinstance(chunk, int) and 1 < chunk != 64:
        yield Attempt(sequence=chunk)


def build(request: InputRequest) -> dict[str, Any]:
    """Keyword arguments for every required argument and for the usual optional ones.

    Raises CaptureError at a required argument that is not known.
    """
    parameters = request.signature.parameters
    batch = request.sizes.next(least=3)
    sequence = _sequence(request)
    shapes = _Shapes(request, batch, sequence)
    chosen: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue
        required = parameter.default is inspect.Parameter.empty
        if (name in _OFFERED and shapes.wants(name)) or required:
            if name not in _MAKERS:
                raise CaptureError(
                    f"{type(request.model).__name__} needs {name!r}, which cannot be made up; "
                    "give example inputs as args or kwargs."
                )
            chosen[name] = _MAKERS[name](shapes)
    if "use_cache" in parameters:
        chosen["use_cache"] = False
    return chosen


def _sequence(request: InputRequest) -> int:
    if request.attempt.sequence is not None:
        return request.attempt.sequence
    positions = find(request.config, "max_position_embeddings", "n_positions", "max_seq_len")
    return request.sizes.next(
        _LEAST_SEQUENCE, positions if isinstance(positions, int) and positions > 2 else None
    )


class _Shapes:
    """The tensors of one request; every maker takes only this."""

    def __init__(self, request: InputRequest, batch: int, sequence: int) -> None:
        self.request = request
        self.config = request.config
        self.batch = batch
        self.sequence = sequence
        parameter = next(request.model.parameters())
        self.device = parameter.device
        self.dtype = parameter.dtype

    def wants(self, name: str) -> bool:
        """Whether an optional argument should be given."""
        main = getattr(self.request.model, "main_input_name", "input_ids")
        if name == "attention_mask":
            return main == "input_ids"
        if name == "decoder_input_ids":
            return bool(self.config.get("is_encoder_decoder"))
        if name == "pixel_values":
            return self.request.attempt.images
        return name == main or name == "input_ids"

    def ids(self, *shape: int) -> torch.Tensor:
        """Token ids that are no special token of the configuration."""
        vocabulary = find(self.config, "vocab_size") or 2
        special = {
            value for key, value in _flat(self.config) if key.endswith("token_id") and isinstance(value, int)
        }
        usable = [token for token in range(min(vocabulary, 256)) if token not in special] or [0]
        ids = torch.tensor(usable)[torch.randint(len(usable), shape)]
        return ids.to(self.device)

    def text(self) -> tuple[int, ...]:
        choices = (2,) if self.request.attempt.choices else ()
        return (self.batch, *choices, self.sequence)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape).to(device=self.device, dtype=self.dtype)


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield str(key), value


def _input_ids(shapes: _Shapes) -> torch.Tensor:
    return shapes.ids(*shapes.text())


def _attention_mask(shapes: _Shapes) -> torch.Tensor:
    mask = torch.ones(shapes.text(), dtype=torch.long)
    mask[-1, ..., -2:] = 0
    return mask.to(shapes.device)


def _decoder_input_ids(shapes: _Shapes) -> torch.Tensor:
    positions = find(shapes.config, "max_target_positions")
    return shapes.ids(shapes.batch, shapes.request.sizes.next(_LEAST_SEQUENCE, positions))


def _pixel_values(shapes: _Shapes) -> torch.Tensor:
    size = find(shapes.config, "image_size") or 64
    height, width = (size, size) if isinstance(size, int) else _pair(size)
    channels = find(shapes.config, "num_channels") or 3
    frames = find(shapes.config, "num_frames")
    time = (frames,) if isinstance(frames, int) else ()
    return shapes.noise(shapes.batch, *time, channels, height, width)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return int(size[0]), int(size[-1])


def _input_features(shapes: _Shapes) -> torch.Tensor:
    bins = find(
        shapes.config, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "input_dim"
    )
    frames = 2 * (find(shapes.config, "max_source_positions") or 50)
    if shapes.request.attempt.frames_first:
        return shapes.noise(shapes.batch, min(frames, 100), bins or 80)
    return shapes.noise(shapes.batch, bins or 80, frames)


def _input_values(shapes: _Shapes) -> torch.Tensor:
    bins, frames = find(shapes.config, "num_mel_bins"), find(shapes.config, "max_length")
    if bins and frames:
        return shapes.noise(shapes.batch, frames, bins)
    stride = math.prod(find(shapes.config, "conv_stride") or (320,))
    return shapes.noise(shapes.batch, 13 * stride + stride // 2 + 1)


def _boxes(shapes: _Shapes) -> torch.Tensor:
    corner = torch.randint(0, 400, (*shapes.text(), 2))
    return torch.cat([corner, corner + torch.randint(1, 400, corner.shape)], -1).to(shapes.device)


_MAKERS: Mapping[str, Callable[[_Shapes], torch.Tensor]] = {
    "input_ids": _input_ids,
    "attention_mask": _attention_mask,
    "decoder_input_ids": _decoder_input_ids,
    "pixel_values": _pixel_values,
    "input_features": _input_features,
    "input_values": _input_values,
    "bbox": _boxes,
}
