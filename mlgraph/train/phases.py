"""A training run as data: a list of phases, and builders for the usual lists.

A phase program is a list of ``Train``, ``Coarsen``, ``Refine`` and ``Interpolate``. The cycles are
multigrid's; ``vcycle`` is the training scheme of Zou, Zhang & Deng, "A Multi-Level Framework for
Accelerating Training Transformer Models" (ICLR 2024, arXiv 2404.07999), for any number of levels.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlgraph.train.errors import TrainError
from mlgraph.train.schedule import Schedule

STATE_MODES = ("reset", "carry", "asymmetric")


@dataclass(frozen=True)
class Train:
    """Train the current level for ``steps`` optimizer steps.

    ``lr`` is the peak learning rate of this phase (the run's when ``None``); ``schedule`` replaces
    the run's schedule and then spans this phase alone.
    """

    steps: int
    lr: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_steps(self.steps))
        if self.lr is not None and not 0.0 <= self.lr < math.inf:
            raise TrainError(f"Train(lr={self.lr}): give a finite learning rate that is not negative.")
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise TrainError(f"Train(schedule={self.schedule!r}): give a mlgraph.train.Schedule.")


@dataclass(frozen=True)
class Coarsen:
    """Go one level down: set the current program aside and coalesce it.

    ``depth``, ``width``, ``pairing``, ``tied`` and ``axes`` are those of ``mlgraph.coalesce``.
    ``state`` says what becomes of the optimizer state (see ``STATE_MODES``; the run's when ``None``).
    """

    depth: int = 2
    width: int = 2
    pairing: str = "adjacent"
    tied: str = "exact"
    axes: Mapping[str, Any] | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        _check_state(self.state)


@dataclass(frozen=True)
class Refine:
    """Go one level up by de-coalescing.

    Without sizes the result has the architecture of the program that was coarsened; with ``depth``
    or ``width`` the program is grown by those factors. ``depth_mode`` is ``copy``, ``scaled`` or
    ``identity``, as in ``mlgraph.decoalesce``.
    """

    depth: int | None = None
    width: int | None = None
    depth_mode: str = "copy"
    state: str | None = None

    def __post_init__(self) -> None:
        _check_state(self.state)

    @property
    def grows(self) -> bool:
        """Whether this makes a new architecture instead of going back to the parent's."""
        return self.depth is not None or self.width is not None


@dataclass(frozen=True)
class Interpolate:
    """Mix the refined program into the one set aside: ``(1 - alpha)·aside + alpha·refined``.

    Optimizer state, unless it is reset, is mixed alike.
    """

    alpha: float = 0.5
    state: str | None = None

    def __post_init__(self) -> None:
        _check_state(self.state)
        if not 0.0 <= self.alpha <= 1.0:
            raise TrainError(f"Interpolate(alpha={self.alpha}): alpha lies between 0 and 1.")


Phase: TypeAlias = Train | Coarsen | Refine | Interpolate
KINDS: dict[str, type[Any]] = {
    "train": Train,
    "coarsen": Coarsen,
    "refine": Refine,
    "interpolate": Interpolate,
}


def whole_steps(steps: Any) -> int:
    """``steps`` as an int, whatever whole number it is."""
    count = operator.index(steps) if hasattr(steps, "__index__") else -1
    if count < 0:
        raise TrainError(f"steps={steps}: give a whole number of steps, not negative.")
    return count


def _check_state(state: str | None) -> None:
    if state is not None and state not in STATE_MODES:
        raise TrainError(
            f"Optimizer state mode {state!r} is unknown: choose one of {', '.join(STATE_MODES)}."
        )


def kind_of(phase: Phase) -> str:
    """The phase's name in files and tables: ``train``, ``coarsen``, ``refine`` or ``interpolate``."""
    return type(phase).__name__.lower()


def levels_of(phases: Sequence[Phase]) -> list[int]:
    """The level at which each phase ends, counted from 1 for the user's model, coarser above."""
    level, levels = 1, []
    for phase in phases:
        level += isinstance(phase, Coarsen) - isinstance(phase, Refine)
        levels.append(level)
    return levels


def check_phases(phases: Sequence[Phase], has_parent: bool = False) -> None:
    """Raise ``TrainError`` where a phase cannot follow those before it.

    ``has_parent`` says that the initial program came from a coarsening and may be refined itself.
    """
    if isinstance(phases, Phase):
        raise TrainError(f"phases is a {type(phases).__name__}: give a list of phases.")
    aside: list[bool] = [False] if has_parent else []
    refined = False
    for number, phase in enumerate(phases):
        if not isinstance(phase, Phase):
            raise TrainError(
                f"Phase {number} is a {type(phase).__name__}: give Train, Coarsen, Refine or Interpolate."
            )
        where = f"Phase {number} ({kind_of(phase)})"
        if isinstance(phase, Interpolate) and not refined:
            raise TrainError(
                f"{where} has nothing to mix: put it right after a refine that undoes a coarsen."
            )
        refined = False
        if isinstance(phase, Coarsen):
            aside.append(True)
        elif isinstance(phase, Refine) and not phase.grows:
            if not aside:
                raise TrainError(
                    f"{where} has no parent to go back to: coarsen first or give depth= or width=."
                )
            refined = aside.pop()
        elif isinstance(phase, Refine):
            aside.clear()


def to_json(phases: Iterable[Phase]) -> list[dict[str, Any]]:
    """The phases as plain values, one mapping each, options at their defaults left out."""
    return [_plain(phase, {"phase": kind_of(phase)}) for phase in phases]


def from_json(entries: Iterable[Mapping[str, Any]]) -> list[Phase]:
    """The phases that ``to_json`` wrote; unknown kinds and options raise ``TrainError``."""
    return [_phase(number, dict(entry)) for number, entry in enumerate(entries)]


def _plain(value: Any, into: dict[str, Any]) -> dict[str, Any]:
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if item != field.default:
            into[field.name] = _plain(item, {}) if isinstance(item, Schedule) else item
    return into


def _phase(number: int, entry: dict[str, Any]) -> Phase:
    kind = entry.pop("phase", None)
    if kind not in KINDS:
        raise TrainError(f"Phase {number} is of kind {kind!r}: set phase to one of {', '.join(KINDS)}.")
    known = {field.name for field in dataclasses.fields(KINDS[kind])}
    for name in entry:
        if name not in known:
            raise TrainError(
                f"Phase {number} ({kind}) has no option {name!r}: it takes {', '.join(sorted(known))}."
            )
    if isinstance(entry.get("schedule"), Mapping):
        entry["schedule"] = Schedule(**entry["schedule"])
    phase: Phase = KINDS[kind](**entry)
    return phase
