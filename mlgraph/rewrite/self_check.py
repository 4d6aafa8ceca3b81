"""Trying a change of width on a miniature before it is made.

On a program a few indices wide, with random weights in float64, growth must keep the function, the gradients
of copies must be those of what they copy, and restriction must undo prolongation. Copies are dealt out at
random, so that what depends on the order of indices fails too. An axis that fails is not changed, so that a
wrong rule costs a saving and never a wrong model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.example_call import example_leaves
from mlgraph.program.axis_table import Axis, Reason
from mlgraph.program.notes import Note, NoteKind
from mlgraph.program.soundness import Soundness
from mlgraph.rewrite.miniature import AxisGrowth, Miniature, Misfit, TooLarge, Trial
from mlgraph.rewrite.trials import (
    TOLERANCE,
    Healed,
    Results,
    axes_in,
    drawn,
    gradient_pairs,
    kin,
    relative_miss,
    run_trial,
)
from mlgraph.rewrite.weight_norm import lengths

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.rewrite.choices import Reduce
    from mlgraph.rewrite.copied import Copies
    from mlgraph.rewrite.grouping import Grouping, Groupings
    from mlgraph.rewrite.plan import WidthPlan

_MOST_COPIES = 3
_SEEDS = 3

AxisFactors = Mapping[str, AxisGrowth]


def check_defaults(program: Program) -> Soundness:
    """What a trial of all axes that are coarsened by default shows, two copies of each index."""
    chosen = {axis.id: 2 for axis in program.axes if axis.coarsenable_by_default and axis.size > 1}
    return check_factors(program, chosen)


def check_groupings(program: Program, groupings: Groupings) -> Soundness:
    """What a trial of these axes together shows, in groups as large as those given (at most 3), equal or
    not, that go down and come back as they do.

    What is said to be approximate of such groups is tried as equal ones.
    """
    return check_factors(program, {axis: _growth(grouping) for axis, grouping in groupings.items()})


def _growth(grouping: Grouping) -> AxisGrowth:
    factor = min(max(grouping.group_sizes), _MOST_COPIES)
    reduce: Reduce = "mean" if grouping.selected is None else "select"
    return AxisGrowth(factor, grouping.uniform is None, reduce, grouping.extend)


def check_factors(program: Program, given: Mapping[str, int | AxisGrowth]) -> Soundness:
    """What a trial shows of axes (by id) that grow so, or by so many copies; made once per program."""
    sizes = {axis.id: axis.size for axis in program.axes}
    asked = {
        axis: AxisGrowth(growth) if isinstance(growth, int) else growth for axis, growth in given.items()
    }
    factors = {axis: growth for axis, growth in asked.items() if growth.factor > 1 and sizes[axis] > 1}
    known: dict[frozenset[tuple[str, AxisGrowth]], Soundness] = program.__dict__.setdefault("_trials", {})
    key = frozenset(factors.items())
    if key not in known:
        known[key] = _Check(program.for_analysis(), factors).run() if factors else Soundness()
        left = frozenset((a, f) for a, f in key if a not in known[key].faults)
        known.setdefault(left, Soundness(unchecked=known[key].unchecked))
    return known[key]


def trial_notes(program: Program, groupings: Groupings) -> list[Note]:
    """What trials of a program showed, for one that is made of it along these axes."""
    trials: Mapping[frozenset[tuple[str, AxisGrowth]], Soundness] = program.__dict__.get("_trials", {})
    made = trials.get(frozenset((axis, _growth(g)) for axis, g in groupings.items()))
    notes = []
    if made is not None and made.unchecked:
        notes.append(Note("unchecked", f"not checked: {made.unchecked}"))
    faults = known_faults(program)
    if groupings:
        notes += _told("kept", program, {a: r for a, r in faults.items() if a not in groupings})
    if made is not None:
        notes += _told("approximate", program, made.faults)
    return notes


def known_faults(program: Program) -> dict[str, Reason]:
    """The axes (by id) that failed in the trials made so far, and why."""
    trials: Mapping[frozenset[tuple[str, AxisGrowth]], Soundness] = program.__dict__.get("_trials", {})
    return {axis: reason for trial in trials.values() for axis, reason in trial.faults.items()}


def _told(kind: NoteKind, program: Program, faults: Mapping[str, Reason]) -> Iterator[Note]:
    """A note for each name of axes, on the first of them."""
    first: dict[str, Axis] = {}
    for axis in program.axes:
        if axis.id in faults:
            first.setdefault(axis.name, axis)
    for axis in first.values():
        yield Note(kind, f"{axis.id} ({axis.size}), since {faults[axis.id]}", axis.id)


class _Check:
    """One trial: axes are taken out until the rest passes."""

    def __init__(self, program: Program, factors: AxisFactors) -> None:
        self.program = program
        self.factors = dict(factors)
        self.whole: set[str] = set()
        self.large_tables = False
        self.faults: dict[str, Reason] = {}
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.fixed = _fixed(program)
        self.lengths = lengths(program)
        self.kin = kin(program)
        self.leaves = self.inputs = example_leaves(program, mixed=True)

    def run(self) -> Soundness:
        try:
            while self.factors and self._fails():
                pass
        except TooLarge:
            return Soundness(self.faults, "even a miniature of it is large")
        except Misfit as misfit:
            where = f"{misfit.node.target} at {misfit.node.meta.get('source') or misfit.node.name}"
            return Soundness(self.faults, f"a miniature of it does not run ({where}: {str(misfit)[:120]})")
        return Soundness(self.faults)

    def _fails(self) -> bool:
        """Try what is left; take out what fails."""
        seed = 0
        while True:
            miniature = self._miniature(seed)
            self.inputs = miniature.inputs(self.leaves)
            try:
                small = self._trial(miniature)
            except Misfit as misfit:
                self._shrunk_too_far(misfit)
                return True
            try:
                reached = self._compare(miniature, small)
            except Misfit as misfit:
                self._blame(miniature, small, {misfit.node: math.nan})
                return True
            if reached is None:
                return True
            seed += 1
            if reached or seed == _SEEDS:
                return False

    def _miniature(self, seed: int = 0) -> Miniature:
        factors, whole = dict(self.factors), frozenset(self.whole)
        return Miniature(self.program, factors, whole, self.large_tables, seed)

    def _trial(self, miniature: Miniature) -> Results:
        side = miniature.small
        try:
            return run_trial(Trial(side), self.inputs, gradients=True)
        except Misfit:
            # what it cannot run on may be masks of both ones and zeros
            plain = example_leaves(self.program)
            results = run_trial(Trial(side), miniature.inputs(plain), gradients=True)
            self.leaves, self.inputs = plain, miniature.inputs(plain)
            return results

    def _shrunk_too_far(self, misfit: Misfit) -> None:
        """Leave axes whole at whose small size an op does not run; those that are whole fail."""
        if not self.large_tables:
            self.large_tables = True
            return
        found = self._axes_at(misfit.node)
        if not found:
            raise misfit
        if found <= self.whole:
            self._take_out(found, misfit.node, math.nan)
        self.whole |= found

    def _compare(self, miniature: Miniature, small: Results) -> bool | None:
        """Whether every axis had an effect; None where something failed and was taken out."""
        plan = miniature.plan()
        if said := {note.subject for note in plan.approximate} & self._other_than_plain():
            self.factors |= {axis: AxisGrowth(self.factors[axis].factor) for axis in said}
            return None
        copies = miniature.moves(plan)
        for name, tensor in miniature.tensors.items():
            transfer = plan.transfers.get(name)
            if transfer is not None and transfer.changes:
                error = relative_miss(transfer.down(transfer.up(tensor)), tensor)
                if error > TOLERANCE:
                    held = {leaf.axis for dim in transfer.dims for leaf in dim.leaves()} & set(self.factors)
                    self._take_out(held, None, error, f"restriction does not undo prolongation of {name}")
                    return None
        shares = self._shares(small, copies)
        trial = Trial(miniature.grown(plan), drawn(small, copies))
        grown = run_trial(trial, self.inputs, gradients=True, shares=shares)
        padded = {axis for axis, growth in self.factors.items() if growth.extend == "pad"}
        for node, x, y in zip(self._outputs(), small.outputs, grown.outputs, strict=True):
            if isinstance(x, torch.Tensor) and isinstance(node, fx.Node):
                wanted = None if padded.intersection(self._axes_of(node)) else copies(x, node)
                if wanted is not None and relative_miss(y, wanted) > TOLERANCE:
                    self._locate(miniature, small, node, relative_miss(y, wanted), padded)
                    return None
        if any(growth.reduce == "select" for growth in self.factors.values()):
            # of copies that are read as one, the one has all of the gradient
            return True
        return self._compare_gradients(miniature, plan, small, grown)

    def _other_than_plain(self) -> set[str]:
        return {axis for axis, growth in self.factors.items() if not growth.is_plain}

    def _shares(self, small: Results, copies: Copies) -> list[torch.Tensor | None]:
        """What elements of the grown outputs count, so that the loss is that of the small program."""
        pairs = zip(self._outputs(), small.outputs, strict=True)
        return [
            copies.shares(x, node) if isinstance(node, fx.Node) and isinstance(x, torch.Tensor) else None
            for node, x in pairs
        ]

    def _outputs(self) -> list[Any]:
        return list(self.program.graph.output_node().args[0])  # type: ignore[arg-type]

    def _compare_gradients(
        self, miniature: Miniature, plan: WidthPlan, small: Results, grown: Results
    ) -> bool | None:
        """Gradients move by the adjoint of what moves weights, so that copies have equal ones."""
        reached: set[str] = set()
        tried: set[str] = set()
        for name, wanted, found, scale in gradient_pairs(plan, small, grown):
            if name in self.lengths:
                continue
            held = {leaf.axis for dim in plan.transfers[name].dims for leaf in dim.leaves()}
            tried |= held
            if wanted.any():
                reached |= held
            error = relative_miss(found, wanted, floor=1e-2 * scale)
            # rounding may grow in a deep network, but not twice in one tensor
            if error > TOLERANCE and self._differs_again(miniature.seed + _SEEDS, name):
                self._locate_gradient(miniature, small, plan.transfers[name].dims, name, error)
                return None
        return tried & set(self.factors) <= reached

    def _differs_again(self, seed: int, name: str) -> bool:
        miniature = self._miniature(seed)
        small, plan = self._trial(miniature), miniature.plan()
        copies = miniature.moves(plan)
        trial = Trial(miniature.grown(plan), drawn(small, copies))
        grown = run_trial(trial, self.inputs, gradients=True, shares=self._shares(small, copies))
        return any(
            relative_miss(found, wanted, floor=1e-2 * scale) > TOLERANCE
            for other, wanted, found, scale in gradient_pairs(plan, small, grown)
            if other == name
        )

    def _locate(
        self, miniature: Miniature, small: Results, output: fx.Node, error: float, padded: set[str]
    ) -> None:
        """Find the ops that do not turn copies into copies, each given what it must be given."""
        if padded:
            does = f"{output.target} is not kept by zeros that pad, as tried on a miniature"
            alone = {axis for axis in padded if not self._kept(miniature, small, output, axis)}
            self._take_out(alone or padded, output, error, does)
            return
        plan = miniature.plan(fold=False)
        found = self._deviating(miniature, small, plan)
        self._blame(miniature, small, found or {output: error})

    def _kept(self, miniature: Miniature, small: Results, output: fx.Node, axis: str) -> bool:
        """Whether a result stays as it is where one axis grows alone."""
        plan = miniature.plan([axis])
        grown = run_trial(Trial(miniature.grown(plan), drawn(small, miniature.moves(plan))), self.inputs)
        at = self._outputs().index(output)
        return relative_miss(grown.outputs[at], small.outputs[at]) <= TOLERANCE

    def _deviating(self, miniature: Miniature, small: Results, plan: WidthPlan) -> dict[fx.Node, float]:
        copies = miniature.moves(plan)
        trial = Healed(miniature.grown(plan), small, copies, self.fixed, set(plan.groupings))
        try:
            run_trial(trial, self.leaves)
        except Misfit as misfit:
            return {**trial.deviating, misfit.node: math.nan}
        return trial.deviating

    def _blame(self, miniature: Miniature, small: Results, found: Mapping[fx.Node, float]) -> None:
        """Take out the axes that make these nodes deviate: alone if they do so alone, else together."""
        candidates = {node: self._axes_at(node) or set(self.factors) for node in found}
        names = {axis.id: axis.name for axis in self.program.axes}
        several = {node for node, axes in candidates.items() if len({names[a] for a in axes}) > 1}
        guilty: dict[fx.Node, set[str]] = {}
        concerned = {a for node in several for a in candidates[node]}
        for name in dict.fromkeys(names[a] for a in concerned):
            alone = [a for a in self.factors if names[a] == name]
            for node in several & self._deviating(miniature, small, miniature.plan(alone, fold=False)).keys():
                guilty.setdefault(node, set()).update(candidates[node] & set(alone))
        for node, error in found.items():
            self._take_out(guilty.get(node) or candidates[node], node, error)

    def _take_out(self, axes: Iterable[str], node: fx.Node | None, error: float, text: str = "") -> None:
        if node is not None and not text:
            does = "does not run at other widths" if math.isnan(error) else "makes of copies what are none"
            text = f"{node.target} {does}, as tried on a miniature"
        alike = {kin for axis in axes for kin in self.kin.get(axis, {axis})}
        for axis in alike & set(self.factors):
            self.faults.setdefault(axis, Reason("tried", text, node.name if node is not None else ""))
            self.factors.pop(axis, None)

    def _locate_gradient(
        self, miniature: Miniature, small: Results, dims: Any, name: str, error: float
    ) -> None:
        """The op nearest to the results behind which the gradients of copies differ."""
        plan = miniature.plan(fold=False)
        copies = miniature.moves(plan)
        wanted = run_trial(Trial(miniature.small), self.inputs, gradients=True, inner=True)
        trial = Trial(miniature.grown(plan), drawn(small, copies))
        found = run_trial(trial, self.inputs, gradients=True, inner=True, shares=self._shares(small, copies))
        held = {leaf.axis for dim in dims for leaf in dim.leaves()} & set(self.factors)
        for node in reversed(list(wanted.inner)):
            gradient = copies(wanted.inner[node], node)
            if node in self.fixed or node not in found.inner or gradient is None:
                continue
            gradient = gradient * (wanted.inner[node].numel() / gradient.numel())
            if relative_miss(found.inner[node], gradient, floor=1e-12) > TOLERANCE:
                user = max(node.users, key=lambda user: user in wanted.inner, default=node)
                text = f"{user.target} gives copies other gradients, as tried on a miniature"
                self._take_out(self._axes_at(user) & held or held, user, error, text)
                return
        self._take_out(held, None, error, f"copies get other gradients in {name}, as tried on a miniature")

    def _axes_at(self, node: fx.Node) -> set[str]:
        """The axes on trial in the dims of a node and of what it reads, else of what made its constants."""
        near = {a for n in (node, *node.all_input_nodes) for a in self._axes_of(n)}
        stack = [n for n in node.all_input_nodes if n in self.fixed]
        while not near and stack:
            current = stack.pop()
            near |= self._axes_of(current)
            stack.extend(current.all_input_nodes)
        return near

    def _axes_of(self, node: fx.Node) -> set[str]:
        return set(axes_in(self.program.axes.node_dims.get(node.name, ()))) & set(self.factors)


def _fixed(program: Program) -> set[fx.Node]:
    """Nodes that no input reaches."""
    fixed: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.op != "placeholder" and all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
    return fixed
