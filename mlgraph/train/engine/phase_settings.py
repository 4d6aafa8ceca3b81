"""The settings of one training phase, and whether its optimizer goes on with the state before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlgraph.train.optimizer import Optimizer
from mlgraph.train.phases import Phase, Train

if TYPE_CHECKING:
    from mlgraph.train.settings import Settings


def settings_of(phase: Train, settings: Settings) -> Settings:
    """The run's settings with what the phase has of its own."""
    return settings if phase.optimizer is None else dataclasses.replace(settings, optimizer=phase.optimizer)


def begins_anew(phases: Sequence[Phase], number: int, settings: Settings) -> bool:
    """Whether phase ``number`` has an optimizer of another kind than the training phase before it."""
    before = [phase for phase in phases[:number] if isinstance(phase, Train) and phase.steps]
    here = phases[number]
    if not before or not isinstance(here, Train):
        return False
    one, other = (_kind(settings_of(phase, settings)) for phase in (before[-1], here))
    return bool(one != other)


def _kind(settings: Settings) -> Any:
    chosen = settings.optimizer
    return chosen.kind if isinstance(chosen, Optimizer) else chosen
