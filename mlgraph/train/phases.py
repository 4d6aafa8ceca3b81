"""A training run as data: a list of phases, and builders for the usual lists.

A phase program is a list of ``Train``, ``Coarsen``, ``Refine``, ``Interpolate`` and ``Apply``; the last
four hold passes. The cycles are multigrid's; ``vcycle`` is the training scheme of Zou, Zhang & Deng, "A
Multi-Level Framework for Accelerating Training Transformer Models" (ICLR 2024, arXiv 2404.07999), for any
number of levels.
"""

from __future__ import annotations

import dataclasses
import math
import operator as operators
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from mlgraph.errors import MlgraphError
from mlgraph.passes import coalesce, decoalesce, interpolate
from mlgraph.passes.base import Pass
from mlgraph.passes.options import default_of, inline, option, required, table_of
from mlgraph.passes.pipeline import Pipeline, parse_pipeline
from mlgraph.train.errors import TrainError
from mlgraph.train.optimizer import Optimizer
from mlgraph.train.schedule import Schedule
from mlgraph.train.tables import build

StateMode = Literal["reset", "carry", "asymmetric"]
STATE_MODES: tuple[str, ...] = get_args(StateMode)
_STATE = "what becomes of the optimizer state; nothing: as the run says"


@dataclass(frozen=True)
class Train:
    """Train the current level for ``steps`` optimizer steps.

    ``lr`` is the peak learning rate of this phase (the run's when ``None``); ``schedule`` replaces
    the run's schedule and then spans this phase alone. ``lr_new`` is the peak for parameters that a change of
    level made new. ``batch`` and ``sequence`` take less of every batch of the data: its first samples, and
    the first tokens of each; ``accumulate`` is the run's option for this phase. ``freeze`` names what is left
    untrained: axes, chains, modules, or globs of parameter names; its part of the backward pass counts no
    FLOPs. With ``average`` the phase ends with the mean of the weights at so many of its last checkpoints,
    its end among them (as LAWA, Kaddour, arXiv 2209.14981). ``distill`` is the share in the loss of what the
    program set aside last predicts; its forward pass counts. With an ``optimizer`` of another kind than the
    phase before had, optimizer state begins anew.
    """

    steps: int = required("optimizer steps")
    lr: float | None = option(None, "peak learning rate; nothing: the run's")
    schedule: Schedule | None = option(None, "a schedule over this phase alone; nothing: the run's")
    lr_new: float | None = option(None, "peak learning rate of new parameters; nothing: lr")
    batch: int | None = option(None, "samples taken of every batch; nothing: all", least=1)
    sequence: int | None = option(None, "tokens taken of every sample; nothing: all", least=1)
    accumulate: int | None = option(None, "batches per optimizer step; nothing: the run's", least=1)
    freeze: tuple[str, ...] = option((), "what is not trained: axes, chains, modules, globs of names")
    optimizer: Optimizer | None = option(None, "an optimizer of its own; nothing: the run's")
    average: int | None = option(None, "last checkpoints of which it ends with the mean", least=1)
    distill: float = option(0.0, "share of the finer level's predictions in the loss", least=0, most=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_steps(self.steps))
        for name, value in (("lr", self.lr), ("lr_new", self.lr_new)):
            if value is not None and not 0.0 <= value < math.inf:
                raise TrainError(f"Train({name}={value}): give a finite learning rate that is not negative.")
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise TrainError(f"Train(schedule={self.schedule!r}): give a mlgraph.train.Schedule.")
        if not 0.0 <= self.distill <= 1.0:
            raise TrainError(f"Train(distill={self.distill}): give a share of 0 to 1.")
        for name in ("batch", "sequence", "accumulate", "average"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise TrainError(f"Train({name}={value}): give a whole number of at least 1.")
        given: str | Sequence[str] = self.freeze
        object.__setattr__(self, "freeze", (given,) if isinstance(given, str) else tuple(given))


class _Holder:
    """What phases that hold passes share: they take a pass, or the options of their own kind of pass."""

    operator: Any
    state: StateMode | None

    def __init__(self, operator: Any = None, state: StateMode | None = None, **options: Any) -> None:
        try:
            held = self._held(operator, options)
        except MlgraphError as error:
            raise TrainError(f"{type(self).__name__}: {error}") from error
        object.__setattr__(self, "operator", held)
        object.__setattr__(self, "state", state)
        if state is not None and state not in STATE_MODES:
            raise TrainError(
                f"Optimizer state mode {state!r} is unknown: choose one of {', '.join(STATE_MODES)}."
            )

    def _held(self, operator: Any, options: Mapping[str, Any]) -> Any:
        default: Pass = default_of(dataclasses.fields(self)[0])  # type: ignore[arg-type]
        if operator is None:
            given = {name: value for name, value in options.items() if value is not None}
            return type(default).from_options({**table_of(default, whole=True), **given})
        passes = _passes(operator)
        if options:
            raise TrainError(f"give a pass or options, not {', '.join(options)} beside a pass.")
        if len(passes) != 1 or passes[0].moves != default.moves:
            way = "coarsens" if default.moves > 0 else "refines" if default.moves < 0 else "interpolates"
            raise TrainError(f"{Pipeline(passes)} is not one pass that {way}: use Apply.")
        return passes[0]


def _passes(given: Any) -> tuple[Pass, ...]:
    if isinstance(given, str):
        return parse_pipeline(given).passes
    passes = tuple(given) if isinstance(given, Pipeline | tuple | list) else (given,)
    for one in passes:
        if not isinstance(one, Pass):
            raise TrainError(f"{one!r} is no pass: give one, as Coalesce(depth=2), or its string.")
    return passes


@dataclass(frozen=True, init=False)
class Coarsen(_Holder):
    """Go one level down: set the current program aside and coarsen it.

    ``operator`` is the pass, as ``Coalesce(depth=2)``; its options may stand in its place, with depth and
    width 2 where they are not given. ``state`` says what becomes of the optimizer state (see
    ``STATE_MODES``; the run's when ``None``).
    """

    operator: Pass = inline(coalesce.Coalesce(depth=2, width=2))
    state: StateMode | None = option(None, _STATE)


@dataclass(frozen=True, init=False)
class Refine(_Holder):
    """Go one level up by de-coalescing.

    ``operator`` is the pass, or its options stand in its place. Without sizes the result has the
    architecture of the program that was coarsened; with sizes the program is grown.
    """

    operator: decoalesce.Decoalesce = inline(decoalesce.Decoalesce())
    state: StateMode | None = option(None, _STATE)

    def _held(self, operator: Any, options: Mapping[str, Any]) -> Any:
        held = super()._held(operator, options)
        if not isinstance(held, decoalesce.Decoalesce):
            raise TrainError(f"{held} does not go back to a level: use Apply.")
        return held


@dataclass(frozen=True, init=False)
class Interpolate(_Holder):
    """Mix the refined program into the one set aside: ``(1 - alpha)·aside + alpha·refined``.

    ``operator`` is the pass, a number or table that is its alpha, or its options stand in its place.
    Optimizer state, unless it is reset, is mixed alike.
    """

    operator: interpolate.Interpolate = inline(interpolate.Interpolate())
    state: StateMode | None = option(None, _STATE)

    def _held(self, operator: Any, options: Mapping[str, Any]) -> Any:
        if isinstance(operator, int | float | Mapping):
            return super()._held(None, {"alpha": operator, **options})
        return super()._held(operator, options)


@dataclass(frozen=True, init=False)
class Apply(_Holder):
    """Run any passes on the current program, as ``Apply("lemon{width=2}")``; nothing is set aside.

    What was set aside before is no longer gone back to. Options of a single pass may follow its name.
    """

    operator: Pipeline = required("a pass, or several as a pipeline")
    state: StateMode | None = option(None, _STATE)

    def _held(self, operator: Any, options: Mapping[str, Any]) -> Any:
        if operator is None:
            raise TrainError("there is no pass: name one, as Apply('lemon').")
        passes = _passes(operator)
        if options and len(passes) > 1:
            raise TrainError(f"options beside {len(passes)} passes fit none: write them in the pipeline.")
        if options:
            passes = (type(passes[0]).from_options({**passes[0].options(), **options}),)
        return Pipeline(passes)


Phase: TypeAlias = Train | Coarsen | Refine | Interpolate | Apply
KINDS: dict[str, type[Any]] = {
    "train": Train,
    "coarsen": Coarsen,
    "refine": Refine,
    "interpolate": Interpolate,
    "apply": Apply,
}


def whole_steps(steps: Any) -> int:
    """``steps`` as an int, whatever whole number it is."""
    count = operators.index(steps) if hasattr(steps, "__index__") else -1
    if count < 0:
        raise TrainError(f"steps={steps}: give a whole number of steps, not negative.")
    return count


def kind_of(phase: Phase) -> str:
    """The phase's name in files and tables: that of its class in lower case."""
    return type(phase).__name__.lower()


def levels_of(phases: Sequence[Phase]) -> list[int]:
    """The level at which each phase ends, counted from 1 for the user's model, coarser above."""
    level, levels = 1, []
    for phase in phases:
        if not isinstance(phase, Train):
            level += sum(operator.moves for operator in _passes(phase.operator))
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
                f"Phase {number} is a {type(phase).__name__}: give Train, Coarsen, Refine, Interpolate or "
                "Apply."
            )
        where = f"Phase {number} ({kind_of(phase)})"
        if isinstance(phase, Interpolate) and not refined:
            raise TrainError(
                f"{where} has nothing to mix: put it right after a refine that undoes a coarsen."
            )
        refined = False
        if isinstance(phase, Train) and phase.distill and not any(aside):
            raise TrainError(f"{where} has no finer level to learn from: distill after a coarsen.")
        if isinstance(phase, Coarsen):
            aside.append(True)
        elif isinstance(phase, Refine) and not phase.operator.grows:
            if not aside:
                raise TrainError(
                    f"{where} has no parent to go back to: coarsen first or give sizes to grow by."
                )
            refined = aside.pop()
        elif isinstance(phase, Refine | Apply):
            aside.clear()


def to_json(phases: Iterable[Phase]) -> list[dict[str, Any]]:
    """The phases as plain values, one mapping each, options at their defaults left out."""
    return [{"phase": kind_of(phase), **_table(phase)} for phase in phases]


def from_json(listed: Iterable[Mapping[str, Any]]) -> list[Phase]:
    """The phases that ``to_json`` wrote; unknown kinds and options raise ``TrainError``.

    The options of the pass that a phase holds are keys of its table; ``pass`` gives another pass, or for
    ``apply`` several, in the notation of pipelines.
    """
    return [_phase(number, dict(entry)) for number, entry in enumerate(listed)]


def _table(phase: Phase) -> dict[str, Any]:
    if isinstance(phase, Train) or type(phase.operator) is type(default_of(dataclasses.fields(phase)[0])):
        return table_of(phase)
    state = {} if phase.state is None else {"state": phase.state}
    return {"pass": str(phase.operator), **state}


def _phase(number: int, entry: dict[str, Any]) -> Phase:
    kind = entry.pop("phase", None)
    if kind not in KINDS:
        raise TrainError(f"Phase {number} is of kind {kind!r}: set phase to one of {', '.join(KINDS)}.")
    made: type[Any] = KINDS[kind]
    try:
        if "pass" in entry or made is Apply:
            phase: Phase = made(entry.pop("pass", None), **entry)
        else:
            phase = build(made, entry)
    except MlgraphError as error:
        raise TrainError(f"Phase {number} ({kind}): {error}") from error
    return phase
