"""An optimizer's state by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from mlgraph.rewrite.sharded import Layout, is_sharded
from mlgraph.train.optimizer import OptimizerState, States


class LazyState(Mapping[str, Mapping[str, torch.Tensor]]):
    """Optimizer state made parameter by parameter, each time that it is asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Mapping[str, torch.Tensor]]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Mapping[str, torch.Tensor]:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


def read_state(
    optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, torch.nn.Parameter]]
) -> OptimizerState:
    """The optimizer's state by parameter name: whole tensors on the CPU, sharded ones as they are."""
    state: OptimizerState = {}
    for name, parameter in named:
        entries = optimizer.state.get(parameter)
        if entries:
            found = {key: torch.as_tensor(value) for key, value in entries.items() if value is not None}
            state[name] = {
                key: value if is_sharded(value) else value.detach().cpu() for key, value in found.items()
            }
    return state


def without(state: States, key: str) -> tuple[States, dict[str, torch.Tensor]]:
    """The state without a key that is no optimizer's, and the values that stood there."""
    taken = {name: entries[key] for name, entries in state.items() if key in entries}
    if not taken:
        return state, {}
    rest = {name: {k: v for k, v in entries.items() if k != key} for name, entries in state.items()}
    return {name: entries for name, entries in rest.items() if entries}, taken


def placed(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A value of a parameter's shape where and as the parameter lies."""
    return _placed(value, parameter, False)


def write_state(
    optimizer: torch.optim.Optimizer,
    named: Iterable[tuple[str, torch.nn.Parameter]],
    state: States,
) -> None:
    """Give the optimizer the state that ``read_state`` returned; sharded ones are taken over."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in named:
        if name not in state or id(parameter) not in groups:
            continue
        group = groups[id(parameter)]
        on_device = bool(group.get("fused") or group.get("capturable"))
        optimizer.state[parameter] = {
            key: _placed(value, parameter, on_device) for key, value in sorted(state[name].items())
        }


def _placed(value: torch.Tensor, parameter: torch.Tensor, scalar_on_device: bool) -> torch.Tensor:
    if is_sharded(value):
        return value
    if value.ndim == 0 and parameter.ndim != 0:
        return value.clone().to(parameter.device if scalar_on_device else "cpu")
    if not is_sharded(parameter):
        return value.clone().to(parameter.device)
    layout = Layout.of(parameter)
    rows = value[slice(*layout.extent(value.shape[0]))]
    return layout.wrap(rows.clone().to(parameter.device), tuple(value.shape))
