"""What is checked of one model, and the row that comes of it."""

from __future__ import annotations

import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import mlgraph
from mlgraph.program import Program
from tests import oracles
from tests.zoo import Built, Entry
from tests.zoo_table import round_trip

COLUMNS = ("captured", "axes", "sound", "width", "depth", "both", "regrow", "round trip")

YES, NO, REFUSED, NONE = "yes", "NO", "refused", "-"


class Mismatch(AssertionError):
    """A result is not what the model's own class gives."""


@dataclass
class Row:
    """Outcomes of one entry: per column ``yes``, ``NO`` (wrong), ``refused`` (by name) or ``-``."""

    name: str
    family: str
    suite: str
    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Kept(AssertionError):
    """A width that the class halves was kept, for a reason that the axis gives."""


class Subject:
    """One entry of the zoo with what was made of it so far."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def built(self, scale: str) -> Built:
        return self.entry.build(scale)

    @cached_property
    def full(self) -> Built:
        return self.built("full")

    @cached_property
    def program(self) -> Program:
        return mlgraph.capture(self.full.model, self.full.args, self.full.kwargs)

    @cached_property
    def inputs(self) -> list[Any]:
        return oracles.flat_inputs(self.program, self.full.args, self.full.kwargs)

    @cached_property
    def small(self) -> Program:
        return mlgraph.coalesce(self.program, width=2)

    @cached_property
    def short(self) -> Program:
        return mlgraph.coalesce(self.program, depth=2)

    @cached_property
    def both(self) -> Program:
        return mlgraph.coalesce(self.program, depth=2, width=2)

    def run(self, program: Program) -> Any:
        """The result of the emitted module in eval mode on the example call."""
        module = mlgraph.emit(program).eval()
        with torch.no_grad():
            return module(*self.full.args, **self.full.kwargs)


def check_captured(subject: Subject) -> None:
    """The emitted module gives what the model gives."""
    with torch.no_grad():
        expected = subject.full.model(*subject.full.args, **subject.full.kwargs)
    error = oracles.outputs_error(subject.run(subject.program), expected)
    if not error <= 1e-5:
        raise Mismatch(f"the emitted module's outputs differ by {error:.1e}")


def check_axes(subject: Subject) -> None:
    """The axes coarsened by default are the dims that the class halves, and no other."""

    table = subject.program.axes
    sizes = {axis.id: axis.size // 2 for axis in table if axis.coarsenable_by_default and axis.size % 2 == 0}
    canonical = subject.program.tensors.aliases
    found = {}
    for name, value in subject.full.model.state_dict().items():
        dims = table.tensor_dims.get(canonical.get(name, name))
        found[name] = tuple(value.shape) if dims is None else tuple(dim.new_size(sizes) for dim in dims)
    expected = oracles.state_shapes(subject.built("half_width").model.state_dict())
    compare(subject, found, expected)


def compare(
    subject: Subject, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether shapes are those expected, or narrower only where the class has no field for a width.

    Raises:
        Kept: the only other differences are axes that were kept, with their reason.
        Mismatch: something else differs.
    """
    full = oracles.state_shapes(subject.full.model.state_dict())
    free = {
        name: shape
        for name, shape in found.items()
        if name in expected
        and any(fragment in name for fragment in subject.entry.fixed)
        and _all(shape, expected[name], expected[name], lambda f, e, _: f == e or 2 * f == e)
    }
    wrong = oracles.difference(found, {**expected, **free})
    if wrong is None:
        return free.items() <= expected.items()
    reasons = []
    for name, shape in found.items():
        if name not in expected or shape in (expected[name], free.get(name)):
            continue
        if not _all(shape, expected[name], full.get(name, ()), lambda f, e, w: f in (e, w)):
            raise Mismatch(wrong)
        reasons.append(_kept(subject, name, shape, expected[name]))
    if expected.keys() - found.keys():
        raise Mismatch(wrong)
    reasons += [_unlike(subject, name) for name in sorted(found.keys() - expected.keys())]
    if None in reasons:
        raise Mismatch(wrong)
    raise Kept(f"{wrong}: {reasons[0]}")


def _all(
    found: tuple[int, ...], expected: tuple[int, ...], full: tuple[int, ...], test: Callable[..., bool]
) -> bool:
    return len(found) == len(expected) == len(full) and all(map(test, found, expected, full))


def _kept(subject: Subject, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
    """Why a dim that the class halves was kept: the reason of an axis on it; None if there is none."""
    table = subject.program.axes
    dims = table.tensor_dims.get(subject.program.tensors.aliases.get(name, name))
    if dims is None:
        return None
    if name in table.unread:
        return f"nothing reads {name}"
    for dim, have, want in zip(dims, found, expected, strict=True):
        ids = {leaf.axis for leaf in dim.leaves()} if have != want else set()
        for axis in table:
            reason = axis.frozen or axis.kept
            if axis.id in ids and reason:
                return f"{axis.name} is kept, for {reason}"
    return None


def _unlike(subject: Subject, name: str) -> str | None:
    """Why the block that holds a tensor is in no chain; None if it is in one."""
    for line in subject.program.blocks.rejected:
        numbered_by = line.split("-")[0].rsplit(".", 1)[0]
        if name.startswith(f"{numbered_by}."):
            return f"these blocks differ: {line}"
    return None


def check_sound(subject: Subject) -> None:
    """Permuting every axis that is not frozen in all its slots changes nothing (fp64, 1e-9)."""
    free = [axis.id for axis in subject.program.axes if axis.frozen is None]
    if not free:
        raise Mismatch("every axis is frozen")
    if oracles.permutation_error(subject.program, free, subject.inputs) <= 1e-9:
        return
    for name in free:
        error = oracles.permutation_error(subject.program, [name], subject.inputs)
        if not error <= 1e-9:
            raise Mismatch(f"permuting {name} changes the outputs by {error:.1e}")
    raise Mismatch("permuting all axes at once changes the outputs")


def check_against(subject: Subject, program: Program, scale: str) -> None:
    """Names, shapes and ties are those of the class at ``scale``, and it computes what the class computes."""
    other = subject.built(scale)
    found = oracles.state_shapes(program.state_dict())
    same = compare(subject, found, oracles.state_shapes(other.model.state_dict()))
    ties, expected_ties = oracles.program_ties(program), oracles.ties(other.model)
    if ties != expected_ties:
        raise Mismatch(f"tied are {sorted(map(sorted, ties))}, expected {sorted(map(sorted, expected_ties))}")
    result = subject.run(program)
    for leaf in oracles.tensors_of(result):
        if leaf.is_floating_point() and leaf.isnan().any():
            raise Mismatch("the coarse module's outputs are NaN")
    if not same:
        return
    other.model.load_state_dict(program.state_dict())
    with torch.no_grad():
        expected = other.model(*subject.full.args, **subject.full.kwargs)
    shapes, expected_shapes = (
        [tuple(leaf.shape) for leaf in oracles.tensors_of(tree)] for tree in (result, expected)
    )
    if shapes != expected_shapes:
        raise Mismatch(f"output shapes are {shapes}, expected {expected_shapes}")


def check_width(subject: Subject) -> None:
    check_against(subject, subject.small, "half_width")


def check_depth(subject: Subject) -> None:
    check_against(subject, subject.short, "half_depth")


def check_both(subject: Subject) -> None:
    check_against(subject, subject.both, "half_both")


def check_regrow(subject: Subject) -> None:
    """De-coalescing keeps names, shapes and (in width) the function; coalescing again is exact."""
    small = subject.small
    grown = mlgraph.decoalesce(small)
    expected = oracles.state_shapes(subject.program.state_dict())
    if wrong := oracles.difference(oracles.state_shapes(grown.state_dict()), expected):
        raise Mismatch(f"regrown, {wrong}")
    error = oracles.outputs_error(
        oracles.evaluate(grown, subject.inputs), oracles.evaluate(small, subject.inputs)
    )
    exposed = _exposes_width(subject)
    if not exposed and not error <= 1e-6:
        raise Mismatch(f"width de-coalescing changes the outputs by {error:.1e}")
    again = mlgraph.coalesce(grown, width=2).state_dict()
    for name, value in small.state_dict().items():
        if not torch.equal(again[name], value):
            raise Mismatch(f"coalescing the regrown program again changes {name}")


def _exposes_width(subject: Subject) -> bool:
    """Whether some result lies on an axis that was coarsened, so that its shape changes."""
    before, after = (
        [tuple(leaf.shape) for leaf in oracles.tensors_of(subject.run(program))]
        for program in (subject.program, subject.small)
    )
    return before != after


def check_round_trip(subject: Subject) -> str:
    """The coarse program, written in the class's own format, is loaded by the class itself."""
    full = subject.full
    with tempfile.TemporaryDirectory() as folder:
        return round_trip.check(
            subject.entry, subject.program, full.model, Path(folder), (full.args, full.kwargs)
        )


CHECKS: dict[str, Callable[[Subject], str | None]] = {
    "captured": check_captured,
    "axes": check_axes,
    "sound": check_sound,
    "width": check_width,
    "depth": check_depth,
    "both": check_both,
    "regrow": check_regrow,
    "round trip": check_round_trip,
}


def applies(column: str, entry: Entry) -> bool:
    if column == "round trip":
        return entry.suite in {"hf", "timm"} and "class" not in entry.tags
    return column not in {"depth", "both"} or entry.chain


def check(entry: Entry, columns: tuple[str, ...] = COLUMNS) -> Row:
    """All columns of one entry; a model that is not captured has no further ones."""
    row = Row(entry.name, entry.family, entry.suite)
    subject = Subject(entry)
    start = time.perf_counter()
    for column in columns:
        if not applies(column, entry):
            row.outcomes[column] = NONE
            continue
        outcome, reason = _outcome(CHECKS[column], subject)
        row.outcomes[column] = outcome
        if reason:
            row.reasons[column] = reason
        elif column == "width" and outcome == YES and entry.fixed:
            names = ", ".join(entry.fixed)
            row.reasons[column] = f"halved beyond the class, which has no field for widths of {names}"
        if "program" not in subject.__dict__:
            break
    row.seconds = time.perf_counter() - start
    return row


def _outcome(run: Callable[[Subject], str | None], subject: Subject) -> tuple[str, str]:
    try:
        with _quiet():
            said = run(subject)
    except round_trip.NotApplicable:
        return NONE, ""
    except mlgraph.MlgraphError as error:
        return REFUSED, _line(str(error))
    except Kept as error:
        return REFUSED, _line(str(error))
    except (Mismatch, round_trip.RoundTripError) as error:
        return NO, _line(str(error))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return NO, _line(f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}")
    return YES, _line(said or "")


def _line(text: str, limit: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
