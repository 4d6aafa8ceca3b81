"""What ``accelerate launch`` asks for, as settings of a run; what a run cannot do is refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mlgraph.train.errors import TrainError
from mlgraph.train.settings import Settings

_FSDP, _MESH = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_PARALLELISM_CONFIG"
_ACCUMULATE = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
# Options of the launcher that a run has no counterpart of, where they are given these values.
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": ("true",),
    "FSDP_RESHARD_AFTER_FORWARD": ("false",),
    "FSDP_AUTO_WRAP_POLICY": ("SIZE_BASED_WRAP",),
}
_MESH_DIMS = {"TP": "tensor parallelism", "CP": "context parallelism", "SP": "sequence parallelism"}


def as_launched(settings: Settings) -> Settings:
    """``settings`` with what the launcher's environment adds.

    Raises:
        TrainError: it asks for what a run cannot do, or options contradict one another.
    """
    asked: dict[str, object] = {}
    if _is_set(_FSDP):
        asked |= _sharding()
    if _is_set(_MESH):
        asked |= _mesh()
    accumulate = int(os.environ.get(_ACCUMULATE) or 1)
    if accumulate > 1 and settings.accumulate == 1:
        asked["accumulate"] = accumulate
    chosen = settings.replace(asked)
    if not chosen.fsdp:
        for name in ("fsdp_replicas", "fsdp_offload", "fsdp_policy"):
            if getattr(chosen, name) != getattr(Settings(), name):
                raise TrainError(f"{name} says how to shard, and nothing is sharded: set fsdp too.")
    if chosen.fsdp and chosen.mixed_precision == "fp16":
        raise TrainError("fsdp and mixed_precision = 'fp16' do not go together: take bf16.")
    return chosen


def _sharding() -> dict[str, object]:
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise TrainError(f"FSDP version {version} is not supported: launch with --fsdp_version 2.")
    for name, values in _REFUSED.items():
        if os.environ.get(name, "") in values:
            raise TrainError(f"--{name.lower()} {os.environ[name]} is not supported: launch without it.")
    if os.environ.get("FSDP_IGNORED_MODULES"):
        raise TrainError("--fsdp_ignored_modules is not supported: launch without it.")
    asked: dict[str, object] = {"fsdp": True}
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        asked["fsdp_offload"] = True
    if _is_set("FSDP_ACTIVATION_CHECKPOINTING"):
        asked["recompute"] = True
    return asked


def _mesh() -> dict[str, object]:
    sizes = {
        name.removeprefix("PARALLELISM_CONFIG_").removesuffix("_SIZE"): int(value)
        for name, value in os.environ.items()
        if name.startswith("PARALLELISM_CONFIG_") and name.endswith("_SIZE") and value.lstrip("-").isdigit()
    }
    for name, meaning in _MESH_DIMS.items():
        if sizes.get(name, 1) > 1:
            raise TrainError(
                f"--parallelism_config_{name.lower()}_size {sizes[name]} asks for {meaning}, which a run "
                "does not do: launch without it."
            )
    if sizes.get("DP_SHARD", 1) <= 1:
        return {}
    replicas, processes = sizes.get("DP_REPLICATE", 1), int(os.environ.get("WORLD_SIZE") or 1)
    if replicas * sizes["DP_SHARD"] != processes:
        raise TrainError(
            f"{replicas} replicas of {sizes['DP_SHARD']} shards are not the {processes} processes started: "
            "make their product that."
        )
    return {"fsdp": True, "fsdp_replicas": replicas}


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


@contextmanager
def without_launched_sharding() -> Iterator[None]:
    """The environment without what makes accelerate shard: a run does it itself, on every device."""
    held = {name: os.environ.pop(name, None) for name in (_FSDP, _MESH)}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in held.items() if value is not None})
