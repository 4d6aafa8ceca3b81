"""Checks of what mlgraph says and does, on a user's own program."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.capture.comparison import CannotRun, Comparison
from mlgraph.capture.export import Call
from mlgraph.capture.state import preserved
from mlgraph.emit.precision import widen
from mlgraph.errors import MlgraphError
from mlgraph.graph.compare import relative_error
from mlgraph.graph.example_call import example_call, example_leaves
from mlgraph.graph.interpret import Interpretation, evaluate
from mlgraph.program import require_program
from mlgraph.rewrite.depth_trials import check_layers
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.plan import plan_up
from mlgraph.rewrite.refine import apply_up
from mlgraph.rewrite.transfer import Roles, TensorTransfer
from mlgraph.storage import load, save
from mlgraph.verify.soundness import Deviation, permutation_error

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis
    from mlgraph.program.dims import Dims

CHECKS = ("soundness", "inverse", "growth", "gradients", "depth", "storage")


@dataclass(frozen=True)
class Check:
    """One line of a report: what was checked, on which axis, the largest error, its bound and where it
    arose."""

    check: str
    axis: str
    error: float
    tolerance: float
    where: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found; true if everything passed."""

    program: str
    checks: tuple[Check, ...]
    skipped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def __bool__(self) -> bool:
        return self.passed

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; an infinite error is the string ``"inf"``."""
        rows = [asdict(check) | {"passed": check.passed} for check in self.checks]
        for row in rows:
            row["error"] = row["error"] if math.isfinite(row["error"]) else "inf"
        return {"program": self.program, "passed": self.passed, "checks": rows, "skipped": list(self.skipped)}

    def __str__(self) -> str:
        lines = [f"{'check':<11}{'axis':<22}{'error':>9}{'bound':>9}  result"]
        for c in self.checks:
            result = "passed" if c.passed else f"FAILED at {c.where}" if c.where else "FAILED"
            lines.append(f"{c.check:<11}{c.axis:<22.21}{c.error:>9.1e}{c.tolerance:>9.0e}  {result}")
        lines.extend(f"skipped: {text}" for text in self.skipped)
        return "\n".join(lines)


def verify(
    program: Program,
    checks: Iterable[str] = CHECKS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    model: torch.nn.Module | None = None,
) -> Verification:
    """Check a program, in float64 and on random inputs of its example sizes.

    ``soundness``: permuting an axis in all its slots changes nothing (1e-9), one line per family of axes,
    per axis where a family fails. ``inverse``: coalescing what was de-coalesced gives the same bits.
    ``growth``: doubling every axis keeps the function (1e-10). ``gradients``: twins get equal gradients
    (1e-9). ``depth``: on a miniature, blocks that are copied, and averaged in pairs, run as they do one after
    another. ``storage``: saving and loading changes no bit. Axes and chains that stay, having failed a trial
    on a miniature, are skipped.

    With ``model``, the module that the program was captured from, the two also run side by side on random
    inputs: results, gradients and written buffers must agree, in evaluation and in training.

    Raises:
        MlgraphError: a check is not known.
    """
    require_program(program)
    wanted = list(checks)
    for name in wanted:
        if name not in CHECKS:
            raise MlgraphError(f"there is no check {name!r}: use {', '.join(CHECKS)}.")
    tell = progress or (lambda _: None)
    double = widen(program)
    leaves = example_leaves(double, seed)
    found: list[Check] = []
    kept = program.sound.faults.items()
    skipped = [f"{axis}, which stays: {reason} ({_line(program, reason.node)})" for axis, reason in kept]
    if "soundness" in wanted:
        tell("permuting axes")
        found.extend(_soundness(double, leaves, seed, skipped))
    if {"inverse", "growth", "gradients"} & set(wanted):
        tell("growing")
        found.extend(_growth(double, leaves, wanted, skipped))
    if "depth" in wanted:
        tell("copying blocks")
        found.extend(_depth(program, skipped))
    if model is not None:
        tell("running the model beside its program")
        found.extend(_beside(program, model, seed))
    if "storage" in wanted:
        tell("saving and loading")
        found.append(_storage(program))
    return Verification(program.name, tuple(found), tuple(skipped))


def _beside(program: Program, model: torch.nn.Module, seed: int) -> Iterator[Check]:
    """The program against the model that it was captured from, which is left as it was."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    known = program.tensors.keys() - program.tensors.aliases.keys()
    call = Call(*example_call(program, seed))
    program = program.with_values(program.tensors.replace(_trainable(program)))
    with preserved(model), torch.enable_grad():
        model.train()
        comparison = Comparison(model, {name: tensor for name, tensor in named if name in known})
        for mode in ("evaluation", "training"):
            try:
                found = comparison.differences(program, call, mode == "training")
            except CannotRun as error:
                raise MlgraphError(f"the model does not run on its example inputs: {error}.") from error
            yield Check("model", mode, math.inf if found else 0.0, 0.0, str(found[0]) if found else "")


def _trainable(program: Program) -> dict[str, torch.Tensor]:
    """The tensors, of which those are parameters that train; as read from a file none are."""
    tensors = program.tensors
    trains = tensors.parameters - tensors.frozen
    return {
        name: torch.nn.Parameter(t.detach()) if name in trains and t.is_floating_point() else t
        for name, t in tensors.items()
    }


def _depth(program: Program, skipped: list[str]) -> Iterator[Check]:
    for chain in program.blocks:
        count = len(chain)
        ways = [
            (Grouping.adjacent(2 * count, 2), "copy"),
            (Grouping.even(count, (count + 1) // 2, chain.name), None),
        ]
        trials = [check_layers(program, {chain.name: grouping}, mode) for grouping, mode in ways]
        faults = [reason for trial in trials for reason in trial.faults.values()]
        unchecked = next((trial.unchecked for trial in trials if trial.unchecked), "")
        if faults:
            where = _line(program, faults[0].node)
            skipped.append(f"depth of {chain.name}, which stays: {faults[0]} ({where})")
        elif unchecked:
            skipped.append(f"depth of {chain.name}: {unchecked}")
        else:
            yield Check("depth", chain.name, 0.0, 0.0)


def _line(program: Program, node: str) -> str:
    """The line of the model's source that a node comes from."""
    lines = {n.name: n.meta.get("source") for n in program.graph.nodes}
    return str(lines.get(node) or node)


def _soundness(program: Program, leaves: Sequence[Any], seed: int, skipped: list[str]) -> list[Check]:
    families: dict[str, list[Axis]] = defaultdict(list)
    for axis in program.axes:
        if axis.frozen is None and axis.size > 1 and axis.id not in program.sound.faults:
            families[axis.name].append(axis)
    out = []
    for name, members in families.items():
        whole = permutation_error(program, [axis.id for axis in members], leaves, seed)
        if whole.error <= 1e-9 or (len(members) == 1 and members[0].kept is None):
            out.append(Check("soundness", name, whole.error, 1e-9, whole.where))
            continue
        for axis in members:
            one: Deviation = permutation_error(program, [axis.id], leaves, seed)
            if one.error > 1e-9 and axis.kept is not None:
                skipped.append(f"soundness of {axis.id}, which stays: the order of its indices matters")
            else:
                out.append(Check("soundness", axis.id, one.error, 1e-9, one.where))
    return out


def _growth(
    program: Program, leaves: Sequence[Any], wanted: Sequence[str], skipped: list[str]
) -> list[Check]:
    faults = program.sound.faults
    chosen = [a for a in program.axes if a.coarsenable_by_default and a.size > 1 and a.id not in faults]
    if not chosen:
        skipped.append("inverse, growth and gradients: no axis is coarsened by default")
        return []
    groupings = {axis.id: Grouping.adjacent(2 * axis.size, 2) for axis in chosen}
    grown = apply_up(program, groupings, {}, "exact", "copy", "verify")
    out = []
    if "inverse" in wanted:
        plan = plan_up(program, groupings)
        worst, where = 0.0, ""
        for name, tensor in program.tensors.items():
            transfer = plan.transfers.get(name)
            if transfer is not None and transfer.changes:
                error = 0.0 if torch.equal(transfer.down(transfer.up(tensor)), tensor) else 1.0
                worst, where = max((worst, where), (error, name), key=lambda pair: pair[0])
        out.append(Check("inverse", "all", worst, 0.0, where))
    if "growth" in wanted:
        before = evaluate(program, program.tensors, leaves)
        after = evaluate(grown, grown.tensors, leaves)
        nodes = list(program.graph.output_node().args[0])  # type: ignore[arg-type]
        worst, where = 0.0, ""
        for x, y, node in zip(before, after, nodes, strict=True):
            if isinstance(x, torch.Tensor):
                error = relative_error(y, _copied(x, program.axes.result_dims(node.name), groupings))
                worst, where = max(
                    (worst, where), (error, f"the output {node.name}"), key=lambda pair: pair[0]
                )
        out.append(Check("growth", "all", worst, 1e-10, where))
    if "gradients" in wanted:
        out.append(_gradients(program, grown, groupings, leaves))
    return out


def _copied(value: torch.Tensor, dims: Dims | None, groupings: dict[str, Grouping]) -> torch.Tensor:
    if dims is None:
        return value
    fine = {axis: grouping.fine for axis, grouping in groupings.items()}
    roles: tuple[Roles, ...] = tuple(["emits"] * len(list(dim.leaves())) for dim in dims)
    return TensorTransfer(tuple(dim.resized(fine) for dim in dims), roles, groupings).up(value)


def _gradients(
    program: Program, grown: Program, groupings: dict[str, Grouping], leaves: Sequence[Any]
) -> Check:
    tensors = {
        name: tensor.clone().requires_grad_(name in grown.tensors.parameters and tensor.is_floating_point())
        for name, tensor in grown.tensors.items()
    }
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flat = Interpretation(grown, tensors, widened=True).run(leaves)
        results = [r for r in flat if isinstance(r, torch.Tensor) and r.requires_grad]
        if not results:
            return Check("gradients", "all", 0.0, 1e-9)
        sum((r.square().mean() for r in results), torch.zeros((), dtype=torch.float64)).backward()
    plan = plan_up(program, groupings)
    worst, where = 0.0, ""
    for name, tensor in tensors.items():
        transfer = plan.transfers.get(name)
        if tensor.grad is None or not tensor.numel() or transfer is None or not transfer.changes:
            continue
        alike = TensorTransfer(
            transfer.dims, tuple(tuple("emits" for _ in r) for r in transfer.roles), groupings
        )
        gradient = tensor.grad.to_dense()
        error = relative_error(gradient, alike.up(alike.down(gradient)))
        scale = float(gradient.abs().max())
        error = 0.0 if scale < 1e-12 else error
        worst, where = max((worst, where), (error, name), key=lambda pair: pair[0])
    return Check("gradients", "all", worst, 1e-9, where)


def _storage(program: Program) -> Check:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pt"
        save(program, path)
        again = load(path)
        for name, tensor in program.tensors.items():
            other = again.tensors[name]
            same = other.dtype == tensor.dtype and other.shape == tensor.shape
            if not same or not torch.equal(
                torch.nan_to_num(tensor.detach()), torch.nan_to_num(other.detach())
            ):
                return Check("storage", "all", 1.0, 0.0, name)
        same = [str(n.target) for n in program.graph.nodes] == [str(n.target) for n in again.graph.nodes]
    return Check("storage", "all", 0.0 if same else 1.0, 0.0, "" if same else "the graph")
