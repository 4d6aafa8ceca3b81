"""An optimizer's state by parameter name, read and written whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from mlgraph.train.optimizer import OptimizerState


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
