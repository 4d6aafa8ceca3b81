"""How a program came about: levels, passes, and what each of them changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlgraph.inspect.changes import Change, changes

if TYPE_CHECKING:
    from mlgraph.program import Program

_DOWN = frozenset(["coalesce"])
_LEVEL = frozenset(["interpolate"])


@dataclass(frozen=True)
class PassStep:
    """A program on the way: its level (``L2``, primed where one of that level came before), the pass that
    made it, empty for the first, and what the pass changed as far as the file still says."""

    level: str
    operation: str = ""
    changes: tuple[Change, ...] = ()


def lineage(program: Program, origin: Program | None = None) -> tuple[PassStep, ...]:
    """The way from the user's model, level 1, to ``program``.

    Coalescing leads one level down, interpolation keeps the level, and every other pass leads one up. A
    program that was taken back up has forgotten what the passes changed; where ``origin`` is one that it came
    from, they are run on its shapes again.
    """
    history = program.history
    told = _changes(program, len(history))
    if origin is not None and not any(told) and history[: len(origin.history)] == origin.history:
        again = _replayed(origin, history[len(origin.history) :])
        told = [()] * len(origin.history) + again
    number, seen = 1, {"L1"}
    steps = [PassStep("L1")]
    for operation, changed in zip(history, told, strict=True):
        name = operation.partition("{")[0]
        number += 1 if name in _DOWN else 0 if name in _LEVEL else -1
        level = f"L{number}"
        while level in seen:
            level += "'"
        seen.add(level)
        steps.append(PassStep(level, operation, changed))
    return tuple(steps)


def _changes(program: Program, length: int) -> list[tuple[Change, ...]]:
    """What each pass changed, as long as parents are known; nothing before that."""
    found: list[tuple[Change, ...]] = []
    current: Program | None = program
    while current is not None and current.lineage is not None and len(found) < length:
        parent = current.lineage.parent
        found.append(tuple(changes(parent, current)))
        current = parent
    return [()] * (length - len(found)) + found[::-1]


def _replayed(origin: Program, operations: Sequence[str]) -> list[tuple[Change, ...]]:
    """What passes change when run one after the other; nothing from the first on that shapes do not allow."""
    from mlgraph.errors import MlgraphError
    from mlgraph.passes.pipeline import parse_pass

    current, found = origin.skeleton(), []
    for operation in operations:
        try:
            after = parse_pass(operation)(current)
        except (MlgraphError, NotImplementedError, RuntimeError, TypeError):
            break
        found.append(tuple(changes(current, after)))
        current = after
    return found + [()] * (len(operations) - len(found))


def frozen_by_user(program: Program) -> tuple[str, ...]:
    """Names of axes of ``program`` that the pass which made it was told to leave."""
    from mlgraph.errors import MlgraphError
    from mlgraph.passes.pipeline import parse_pipeline

    if program.lineage is None:
        return ()
    try:
        passes = list(parse_pipeline(program.lineage.operation))
    except MlgraphError:
        return ()
    known = {name for axis in program.axes for name in (axis.id, axis.name)}
    return tuple(name for found in passes for name in getattr(found, "freeze", ()) if name in known)
