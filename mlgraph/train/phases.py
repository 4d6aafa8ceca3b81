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
from typing import Any, TypeAlias, TypeVar

from mlgraph.train.errors import TrainError
from mlgraph.train.schedule import Schedule

STATE_MODES = ("reset", "carry", "asymmetric")
_T = TypeVar("_T")


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
        object.__setattr__(self, "steps", _whole(self.steps))
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


def _whole(steps: Any) -> int:
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


def total_steps(phases: Iterable[Phase]) -> int:
    """Optimizer steps of the whole phase program, at all levels."""
    return sum(phase.steps for phase in phases if isinstance(phase, Train))


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


def plain(steps: int, lr: float | None = None) -> list[Phase]:
    """Training from scratch: one ``Train``."""
    return [Train(steps, lr=lr)]


def vcycle(
    steps: int,
    init_steps: int | Sequence[int] = 0,
    coarse_steps: int | Sequence[int] | None = None,
    depth: int = 2,
    width: int = 2,
    levels: int = 2,
    alpha: float | Sequence[float] = 0.5,
    lr: float | Sequence[float] | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
    depth_mode: str = "copy",
    axes: Mapping[str, Any] | None = None,
) -> list[Phase]:
    """The paper's V-cycle.

    ``steps`` are the steps at level 1 in all: ``init_steps`` of them (the paper's E_a) before
    coarsening, the rest after interpolation. ``coarse_steps`` (E_small) are the steps per visit of a
    coarser level, half of ``steps`` by default; below level 1 the first ``init_steps`` of them likewise
    come before going further down. Sequences give one value per level: ``coarse_steps`` for levels
    2 to ``levels``, ``init_steps`` and ``alpha`` for levels 1 to ``levels - 1``, ``lr`` for every level. The
    paper takes ``alpha`` 0.5 for BERT, 0.25 for GPT and DeiT.
    """
    return _cycle(
        1, steps, init_steps, coarse_steps, depth, width, levels, alpha, lr, pairing, tied, depth_mode, axes
    )


def wcycle(
    steps: int,
    init_steps: int | Sequence[int] = 0,
    coarse_steps: int | Sequence[int] | None = None,
    depth: int = 2,
    width: int = 2,
    levels: int = 3,
    alpha: float | Sequence[float] = 0.5,
    lr: float | Sequence[float] | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
    depth_mode: str = "copy",
    axes: Mapping[str, Any] | None = None,
) -> list[Phase]:
    """A W-cycle: as ``vcycle``, but each level below the first is cycled over twice per visit."""
    return _cycle(
        2, steps, init_steps, coarse_steps, depth, width, levels, alpha, lr, pairing, tied, depth_mode, axes
    )


def fmg(
    steps: int,
    init_steps: int | Sequence[int] = 0,
    coarse_steps: int | Sequence[int] | None = None,
    depth: int = 2,
    width: int = 2,
    levels: int = 2,
    alpha: float | Sequence[float] = 0.5,
    lr: float | Sequence[float] | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
    depth_mode: str = "copy",
    axes: Mapping[str, Any] | None = None,
) -> list[Phase]:
    """Full multigrid: start at the coarsest level; each finer level reached is given its own V-cycle.

    The coarsest level trains first, on the coarsened initial weights. After each ``Refine`` the
    V-cycle from that level follows; there is nothing worth interpolating with on first arrival.
    """
    down = Coarsen(depth=depth, width=width, pairing=pairing, tied=tied, axes=axes)
    recipe = _Recipe(
        1, steps, init_steps, coarse_steps, levels, alpha, lr, down, Refine(depth_mode=depth_mode)
    )
    phases: list[Phase] = [down] * (levels - 1)
    phases += [Train(recipe.steps[levels - 1], lr=recipe.lr[levels - 1])]
    for level in range(levels - 1, 0, -1):
        phases += [recipe.up, *recipe.cycle(level)]
    return _joined(phases)


def progressive_stacking(
    stage_steps: Sequence[int],
    depth: int = 2,
    lr: float | Sequence[float] | None = None,
    depth_mode: str = "copy",
) -> list[Phase]:
    """Progressive stacking: train a shallow model, stack it, go on, up to the user's model.

    ``stage_steps`` gives the steps per stage, the shallowest first and the full depth last; each
    stage is ``depth`` times as deep as the one before. The blocks of a deeper stage are paired in
    ``halves``, so that a stack is copied whole (Gong et al., "Efficient Training of BERT by
    Progressively Stacking", ICML 2019). ``lr`` may give one rate per level, the full depth first.
    """
    levels = len(stage_steps)
    if not levels:
        raise TrainError("stage_steps is empty: give the steps of each stage, the shallowest first.")
    rates = _per_level(lr, levels, "lr")
    phases: list[Phase] = [Coarsen(depth=depth, width=1, pairing="halves")] * (levels - 1)
    for stage, steps in enumerate(stage_steps):
        phases += [Refine(depth_mode=depth_mode)] if stage else []
        phases += [Train(steps, lr=rates[levels - 1 - stage])]
    return phases


def _cycle(
    visits: int,
    steps: int,
    init_steps: int | Sequence[int],
    coarse_steps: int | Sequence[int] | None,
    depth: int,
    width: int,
    levels: int,
    alpha: float | Sequence[float],
    lr: float | Sequence[float] | None,
    pairing: str,
    tied: str,
    depth_mode: str,
    axes: Mapping[str, Any] | None,
) -> list[Phase]:
    down = Coarsen(depth=depth, width=width, pairing=pairing, tied=tied, axes=axes)
    up = Refine(depth_mode=depth_mode)
    return _joined(_Recipe(visits, steps, init_steps, coarse_steps, levels, alpha, lr, down, up).cycle(1))


class _Recipe:
    """The options of a cycle, level by level."""

    def __init__(
        self,
        visits: int,
        steps: int,
        init_steps: int | Sequence[int],
        coarse_steps: int | Sequence[int] | None,
        levels: int,
        alpha: float | Sequence[float],
        lr: float | Sequence[float] | None,
        down: Coarsen,
        up: Refine,
    ) -> None:
        if levels < 1:
            raise TrainError(f"levels={levels}: a cycle has at least one level.")
        coarse = steps // 2 if coarse_steps is None else coarse_steps
        self.visits, self.levels, self.down, self.up = visits, levels, down, up
        self.steps = [steps, *_per_level(coarse, levels - 1, "coarse_steps")]
        self.init = [*_per_level(init_steps, levels - 1, "init_steps"), 0]
        self.alpha = _per_level(alpha, levels - 1, "alpha")
        self.lr = _per_level(lr, levels, "lr")
        for level, (init, all_) in enumerate(zip(self.init, self.steps, strict=True), 1):
            if _whole(init) > _whole(all_):
                raise TrainError(f"init_steps={init} exceeds the {all_} steps of level {level}: give fewer.")

    def cycle(self, level: int) -> list[Phase]:
        steps, init, lr = self.steps[level - 1], self.init[level - 1], self.lr[level - 1]
        if level == self.levels:
            return [Train(steps, lr=lr)]
        # At the coarsest level a second visit would only repeat the first.
        visits = self.visits if level + 1 < self.levels else 1
        below = self.cycle(level + 1) * visits
        mix = Interpolate(self.alpha[level - 1])
        return [Train(init, lr=lr), self.down, *below, self.up, mix, Train(steps - init, lr=lr)]


def _per_level(value: _T | Sequence[_T], count: int, name: str) -> list[_T]:
    if not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise TrainError(
            f"{name} gives {len(value)} values where {count} are needed: one per level it applies to."
        )
    return list(value)


def _joined(phases: Sequence[Phase]) -> list[Phase]:
    """Without empty training phases, and with neighbouring ones of one rate made one."""
    joined: list[Phase] = []
    for phase in phases:
        last = joined[-1] if joined else None
        if isinstance(phase, Train) and phase.steps == 0:
            continue
        if isinstance(phase, Train) and isinstance(last, Train) and phase.lr == last.lr:
            joined[-1] = Train(last.steps + phase.steps, lr=last.lr)
        else:
            joined.append(phase)
    return joined
