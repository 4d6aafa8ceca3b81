"""Going from level to level: programs set aside, and the optimizer state that comes along."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from mlgraph.passes.interpolate import Mix, mixed
from mlgraph.program import Program
from mlgraph.rewrite.alignment import moves_between, permuted
from mlgraph.rewrite.refine import smoothed
from mlgraph.train.engine.carry import (
    StateMap,
    new_after,
    new_parameters,
    own_state_map,
    permuted_state,
    state_map,
    steps_between,
)
from mlgraph.train.engine.optimizer_state import LazyState
from mlgraph.train.engine.sharding import applied, is_sharded_program, moved
from mlgraph.train.errors import TrainError
from mlgraph.train.optimizer import FIRST_MOMENTS, OptimizerState, States
from mlgraph.train.phases import Apply, Coarsen, Interpolate, Phase, Refine, Train

SetAside = Callable[[str, Program, bool], Callable[[], States]]


@dataclass(frozen=True)
class Aside:
    """A program set aside by a coarsening.

    ``name`` is its own, ``architecture`` that of its level (see ``Level``); ``state`` gives its optimizer
    state when it is asked for.
    """

    name: str
    program: Program
    architecture: str | None
    state: Callable[[], States]


@dataclass(frozen=True)
class Level:
    """Where a run stands: the program it trains, those set aside above it, and parameters that are new.

    ``architecture`` names the phase that made the program's graph, ``None`` the user's own.
    """

    program: Program
    architecture: str | None = None
    aside: tuple[Aside, ...] = ()
    new: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LevelChange:
    """The outcome of level-changing phases: the new level, and what to do with the optimizer state.

    ``refined`` is the coarse program just gone up from, and the depth mode by which that was done.
    """

    level: Level
    maps: tuple[StateMap, ...] = field(default=())
    refined: tuple[Program, str] | None = None

    def state(self, state: States) -> OptimizerState:
        """The optimizer state of the new level, from that of the old one; made parameter by parameter."""
        for transfer in self.maps:
            state = transfer(state)
        return {name: dict(state[name]) for name in state}


def change_level(
    level: Level,
    phases: Sequence[Phase],
    first: int,
    mode: str,
    set_aside: SetAside,
) -> LevelChange:
    """Carry out level-changing phases, numbered from ``first``; optimizer state is left for later.

    ``mode`` is the run's choice for the optimizer state where a phase makes none. ``set_aside(name,
    program, keeps)`` is told of each program set aside, and whether its optimizer state will be wanted; it
    returns how to get that back. State follows when ``LevelChange.state`` is called, after the weights: so
    the memory of both is not needed at once.
    """
    change = LevelChange(level)
    for number, phase in enumerate(phases, first):
        mode_here = getattr(phase, "state", None) or mode
        match phase:
            case Coarsen():
                change = _coarsen(change, phase, number, mode_here, set_aside)
            case Refine():
                mixed = number + 1 < first + len(phases) and isinstance(
                    phases[number + 1 - first], Interpolate
                )
                change = _refine(change, phase, number, mode_here)
                if not phase.operator.grows and not mixed and change.level.aside:
                    change = _into_aside(change, change.level.program)
            case Interpolate():
                change = _interpolate(change, phase, mode_here)
            case Apply():
                change = _apply(change, phase, number, mode_here)
            case Train():
                raise TrainError(f"Phase {number} trains: it changes no level.")
    return change


def _coarsen(change: LevelChange, phase: Coarsen, number: int, mode: str, set_aside: SetAside) -> LevelChange:
    fine, level = change.level.program, change.level
    coarse = applied(phase.operator, fine)
    name = f"aside-{number:04d}"
    kept = moved(fine, "cpu") if is_sharded_program(fine) else fine
    aside = Aside(name, kept, level.architecture, set_aside(name, fine, mode != "reset"))
    below = Level(coarse, f"{number:04d}", (*level.aside, aside))
    return LevelChange(below, (*change.maps, state_map(coarse, "down", mode)))


def _refine(change: LevelChange, phase: Refine, number: int, mode: str) -> LevelChange:
    coarse, level = change.level.program, change.level
    fine, grows = applied(phase.operator, coarse), phase.operator.grows
    # Going back up, the transfers are those by which the coarse program was made; growing, those of the
    # new one.
    transfers = fine if grows else coarse
    above = Level(fine, f"{number:04d}", () if grows else level.aside, new_parameters(transfers))
    depth_mode = phase.operator.depth_mode
    maps = (*change.maps, state_map(transfers, "up", mode, depth_mode))
    return LevelChange(above, maps, None if grows else (coarse, depth_mode))


def _apply(change: LevelChange, phase: Apply, number: int, mode: str) -> LevelChange:
    program, maps, new = change.level.program, list(change.maps), change.level.new
    for operator in phase.operator:
        made = applied(operator, program)
        steps = steps_between(program, made, str(operator))
        maps += [own_state_map(step, mode) for step in steps]
        for step in steps:
            new = new_after(step, new)
        program = made
    return LevelChange(Level(program, f"{number:04d}", (), new), tuple(maps))


def _interpolate(change: LevelChange, phase: Interpolate, mode: str) -> LevelChange:
    if not change.level.aside or change.refined is None:
        raise TrainError("Interpolate has no program set aside to mix with: coarsen before you refine.")
    aside, (coarse, depth_mode) = change.level.aside[-1], change.refined
    first = _beside(aside.program, change.level.program)
    mix = Mix(first, phase.operator.alpha, phase.operator.detail)
    has_detail = phase.operator.detail is not None
    smooth = smoothed(first, coarse, depth_mode) if has_detail else None
    refined = change.level.program
    moves = moves_between(first, refined) if phase.operator.align else {}
    aligned = permuted(refined, moves) if moves else refined
    into = _into_aside(change, mixed(first, aligned, mix, smooth))

    def mix_states(state: States) -> States:
        if mode == "reset":
            return {}
        state = permuted_state(refined, moves, state) if moves else state
        own = aside.state()
        if not has_detail:
            return mix_state(own, state, mix)
        down, up = state_map(coarse, "down", mode), state_map(coarse, "up", mode, depth_mode)
        return mix_state(own, state, mix, up(down(own)))

    return dataclasses.replace(into, maps=(*into.maps, mix_states))


def _beside(aside: Program, program: Program) -> Program:
    """A program set aside where ``program`` lies."""
    if not is_sharded_program(program):
        return aside
    return moved(aside, next(iter(program.tensors.values())).device)


def _into_aside(change: LevelChange, program: Program) -> LevelChange:
    """The architecture set aside last with the weights of ``program``.

    Where they are whole they go into the tensors set aside: the user's own are trained in place.
    """
    *rest, aside = change.level.aside
    if is_sharded_program(program):
        into = aside.program.with_values(program.tensors)
    else:
        into = aside.program
        with torch.no_grad():
            for name, tensor in aside.program.tensors.items():
                tensor.copy_(program.tensors[name])
    level = dataclasses.replace(
        change.level, program=into, architecture=aside.architecture, aside=tuple(rest)
    )
    return dataclasses.replace(change, level=level)


def mix_state(first: States, second: States, mix: Mix, smooth: States | None = None) -> States:
    """Optimizer state mixed as the weights are; step counts become the larger one.

    ``smooth`` is what of ``first`` remains on the way down and back up. Second moments cannot fall below
    zero, so they are mixed without detail: ``(1 - alpha)·first + alpha·second``. Where one side has no state
    for a parameter, as before any training, the other's is taken.
    """

    def mixed_entries(name: str) -> Mapping[str, torch.Tensor]:
        if name not in first or name not in second:
            return first[name] if name in first else second[name]
        ours, theirs = first[name], second[name]
        kept = smooth[name] if smooth is not None and name in smooth else {}
        made = {}
        for key in sorted(ours.keys() & theirs.keys()):
            if ours[key].ndim == 0:
                made[key] = torch.maximum(ours[key], theirs[key])
                continue
            detailed = kept.get(key) if key in FIRST_MOMENTS else None
            made[key] = mix.tensor(name, ours[key], theirs[key].to(ours[key].dtype), detailed)
        return made

    return LazyState({name: partial(mixed_entries, name) for name in dict.fromkeys([*first, *second])})
