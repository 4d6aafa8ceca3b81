"""Optimizers of a run, and their state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from mlgraph.train.engine.rates import Rate
from mlgraph.train.errors import TrainError
from mlgraph.train.fields import option

# Per parameter name, the optimizer's tensors by key: exp_avg, exp_avg_sq, step, momentum_buffer, …
OptimizerState: TypeAlias = dict[str, dict[str, torch.Tensor]]
FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")
KINDS = ("adamw", "sgd")


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of a run: AdamW or SGD; each number is documented by its field's ``help``."""

    kind: str = option("adamw", "adamw or sgd")
    lr: float = option(1e-3, "peak learning rate where a phase names none")
    weight_decay: float = option(0.01, "decay of parameters with two or more dims")
    betas: tuple[float, float] = option((0.9, 0.95), "AdamW's decay rates of the moments")
    eps: float = option(1e-8, "AdamW's term against division by zero")
    momentum: float = option(0.9, "SGD's momentum")
    nesterov: bool = option(False, "SGD with Nesterov's momentum")

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainError(f"The optimizer {self.kind!r} is unknown: choose one of {', '.join(KINDS)}.")
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("lr", "weight_decay", "eps", "momentum"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise TrainError(f"Optimizer {name} = {value}: give a finite number that is not negative.")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise TrainError(f"Optimizer betas = {self.betas}: give two numbers of at least 0 and below 1.")

    def __call__(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.kind == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


OptimizerFactory: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def parameter_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]], new: Collection[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups: with and without weight decay, each split in parameters that are ``new`` or not.

    Weight decay falls on parameters of two or more dims. Each group carries ``new`` for ``set_rate``.
    """
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1, name in new), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "new": is_new}
        for (decays, is_new), parameters in groups.items()
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: Rate) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate.new if group.get("new", False) else rate.old


def read_state(
    optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, torch.nn.Parameter]]
) -> OptimizerState:
    """The optimizer's state by parameter name, whole tensors on the CPU.

    Sharded state is gathered, so under FSDP every process must call this.
    """
    state: OptimizerState = {}
    for name, parameter in named:
        entries = optimizer.state.get(parameter)
        if entries:
            state[name] = {
                key: whole(torch.as_tensor(value)) for key, value in entries.items() if value is not None
            }
    return state


def write_state(
    optimizer: torch.optim.Optimizer,
    named: Iterable[tuple[str, torch.nn.Parameter]],
    state: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Give the optimizer the state that ``read_state`` returned, sharded as its parameters are."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in named:
        if name not in state or id(parameter) not in groups:
            continue
        group = groups[id(parameter)]
        on_device = bool(group.get("fused") or group.get("capturable"))
        # Sharding is collective: every process takes the entries in this order.
        optimizer.state[parameter] = {
            key: _placed(state[name][key], parameter, on_device) for key in sorted(state[name])
        }


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A detached CPU tensor with every shard gathered; the tensor itself where it is one already."""
    full = getattr(tensor, "full_tensor", None)
    return (full() if full is not None else tensor).detach().cpu()


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """``value`` on the device of ``parameter`` and sharded as it is."""
    placements = getattr(parameter, "placements", None)
    if placements is None:
        return value.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    mesh = parameter.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(value.to(parameter.device), mesh, placements)


def _placed(value: torch.Tensor, parameter: torch.Tensor, scalar_on_device: bool) -> torch.Tensor:
    if value.ndim == 0 and parameter.ndim != 0:
        return value.clone().to(parameter.device if scalar_on_device else "cpu")
    return like(value.clone(), parameter)
