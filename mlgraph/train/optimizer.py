"""Optimizers of a run, and their state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from mlgraph.passes.options import option
from mlgraph.train.errors import TrainError
from mlgraph.train.schedule import Rate

if TYPE_CHECKING:
    import torch

# Per parameter name, the optimizer's tensors by key: exp_avg, exp_avg_sq, step, momentum_buffer, …
OptimizerState: TypeAlias = "dict[str, dict[str, torch.Tensor]]"
States: TypeAlias = "Mapping[str, Mapping[str, torch.Tensor]]"
FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")
OptimizerKind = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of a run: AdamW or SGD; each number is documented by its field's ``help``."""

    kind: OptimizerKind = option("adamw", "the method")
    lr: float = option(1e-3, "peak learning rate where a phase names none")
    weight_decay: float = option(0.01, "decay of parameters with two or more dims")
    betas: tuple[float, float] = option((0.9, 0.95), "AdamW's decay rates of the moments")
    eps: float = option(1e-8, "AdamW's term against division by zero")
    momentum: float = option(0.9, "SGD's momentum")
    nesterov: bool = option(False, "SGD with Nesterov's momentum")

    def __post_init__(self) -> None:
        if self.kind not in get_args(OptimizerKind):
            listed = ", ".join(get_args(OptimizerKind))
            raise TrainError(f"The optimizer {self.kind!r} is unknown: choose one of {listed}.")
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("lr", "weight_decay", "eps", "momentum"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise TrainError(f"Optimizer {name} = {value}: give a finite number that is not negative.")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise TrainError(f"Optimizer betas = {self.betas}: give two numbers of at least 0 and below 1.")

    def __call__(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        if self.kind == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


OptimizerFactory: TypeAlias = Callable[[list[dict[str, Any]]], Any]


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
