"""What a run may be told beside its phases and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from mlgraph.errors import suggestion
from mlgraph.passes.options import option
from mlgraph.train.errors import TrainError
from mlgraph.train.optimizer import Optimizer, OptimizerFactory
from mlgraph.train.phases import STATE_MODES, StateMode
from mlgraph.train.schedule import Schedule

Precision = Literal["no", "fp16", "bf16", "fp8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class Settings:
    """Options of ``run``; each is documented by its field's ``help``, as in ``mlgraph train --help``."""

    optimizer: Optimizer | OptimizerFactory = option(
        Optimizer(),
        "AdamW or SGD and its numbers; or a function of parameter groups",
    )
    schedule: Schedule = option(Schedule(), "how the learning rate moves")
    optimizer_state: StateMode = option("carry", "what a change of level does to optimizer state")
    seed: int = option(0, "seeds the order of the data and every random draw of the model")
    accumulate: int = option(1, "batches per optimizer step and process")
    clip: float | None = option(1.0, "largest norm of the gradient; nothing: no clipping")
    mixed_precision: Precision | None = option(None, "nothing: as accelerate was launched")
    compile: bool = option(False, "torch.compile the module of every level")
    recompute: bool = option(False, "recompute each block's activations in the backward pass, not keep them")
    fsdp: bool = option(False, "shard parameters, gradients and optimizer state over the processes (FSDP2)")
    fsdp_replicas: int = option(1, "copies of the model under FSDP2, each over processes ÷ copies (HSDP)")
    fsdp_offload: bool = option(False, "keep what FSDP2 shards in host memory, and step there")
    fsdp_policy: bool = option(
        False, "FSDP2 gathers parameters in bf16, at half the traffic; needs mixed_precision bf16"
    )
    eval_every: int = option(
        0,
        "steps between evaluations, beside those at the ends of training phases; 0: none between, and in "
        "mlgraph train so many that there are 20",
    )
    eval_batches: int | None = option(None, "batches per evaluation; nothing: all")
    log_every: int = option(10, "steps between lines of metrics")
    checkpoint_every: int = option(500, "steps between checkpoints; 0: at the ends of phases alone")
    keep: int = option(2, "checkpoints kept")
    background: bool = option(False, "write checkpoints while training goes on, from a copy in host memory")
    timeout: float = option(45.0, "seconds that processes wait for one that does not answer before they end")
    trackers: tuple[str, ...] | None = option(
        None,
        "experiment trackers of accelerate beside metrics.jsonl: tensorboard, wandb, …; nothing: TensorBoard "
        "in the run directory, where it is installed; an empty list: none",
    )
    progress: bool = option(False, "show a progress bar with the time left")

    def __post_init__(self) -> None:
        _check_whole(self, 1, "accumulate", "log_every", "keep", "eval_batches", "fsdp_replicas")
        _check_whole(self, 0, "eval_every", "checkpoint_every")
        if not self.timeout > 0.0:
            raise TrainError(f"timeout = {self.timeout}: give a number of seconds above 0.")
        if self.clip is not None and not self.clip > 0.0:
            raise TrainError(f"clip = {self.clip}: give a norm above 0, or None.")
        # an optimizer that is made already has its groups; torch need not be imported to see it
        if not callable(self.optimizer) or hasattr(self.optimizer, "param_groups"):
            raise TrainError(
                f"optimizer is a {type(self.optimizer).__name__}: give mlgraph.train.Optimizer or a function "
                "of parameter groups, as torch.optim.Adam is one."
            )
        if not isinstance(self.schedule, Schedule):
            raise TrainError(
                f"schedule is a {type(self.schedule).__name__}: give mlgraph.train.Schedule, as "
                "Schedule('wsd')."
            )
        if self.optimizer_state not in STATE_MODES:
            raise TrainError(
                f"optimizer_state = {self.optimizer_state!r} is unknown: choose one of "
                f"{', '.join(STATE_MODES)}."
            )
        if self.mixed_precision is not None and self.mixed_precision not in PRECISIONS:
            raise TrainError(
                f"mixed_precision = {self.mixed_precision!r} is unknown: choose one of "
                f"{', '.join(PRECISIONS)}."
            )

    def replace(self, options: Mapping[str, Any]) -> Settings:
        """These settings with others for those given by name; raises ``TrainError`` at unknown ones."""
        known = {entry.name: entry.default for entry in dataclasses.fields(self)}
        for name in options:
            if name not in known:
                raise TrainError(f"run takes no option {name!r}: {_suggested(name, known)}")
        return dataclasses.replace(self, **options)

    @property
    def lr(self) -> float:
        """The peak learning rate where a phase names none."""
        return float(getattr(self.optimizer, "lr", 1e-3))

    @property
    def weight_decay(self) -> float:
        """The weight decay of parameters with two or more dims."""
        return float(getattr(self.optimizer, "weight_decay", 0.0))

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values; a function by its qualified name."""
        shown_only = ("progress",)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in shown_only}
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value


def _check_whole(settings: Settings, least: int, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, Integral) or value < least):
            raise TrainError(f"{name} = {value}: give a whole number of at least {least}.")


def _suggested(name: str, known: Mapping[str, Any]) -> str:
    for field, default in known.items():
        if dataclasses.is_dataclass(default) and name in {f.name for f in dataclasses.fields(default)}:
            return f"it is a field of {field}={type(default).__name__}({name}=…)."
    return suggestion(name, known, "it takes {}.")
