"""Trying a change of depth on a miniature before it is made.

The blocks of the miniature itself are run one after another as they are to be laid out, each on the tensors
that it is to have: so must the rewritten graph run. Growth to identities must keep every result, and copies
with scaled branches make steps that add up to one. A chain that fails is not changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.errors import MlgraphError, first_line
from mlgraph.graph.constants import constants
from mlgraph.graph.example_call import example_leaves
from mlgraph.graph.interpret import Interpretation
from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait
from mlgraph.program.axis_table import Reason
from mlgraph.program.soundness import Soundness
from mlgraph.rewrite.coarsen import coarse_recipes, stack_down
from mlgraph.rewrite.depth.residual import Changes, residual_changes, stream
from mlgraph.rewrite.depth.restack import Restacked, restack
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.laid_out import Held, Values, laid_out
from mlgraph.rewrite.miniature import AxisGrowth, Miniature, Misfit, TooLarge, Trial, draws
from mlgraph.rewrite.plan import WidthPlan
from mlgraph.rewrite.refine import grown_recipes
from mlgraph.rewrite.trials import TOLERANCE, axes_in, kin, relative_miss, run_trial
from mlgraph.rewrite.weight_norm import lengths, with_lengths

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import Chain
    from mlgraph.program.tensors import TensorRecipe

# A step so small that what is left of two half steps beside it is of its order.
_STEP = 1e-4
_OF_HIGHER_ORDER = 1e-2
_NO_PLAN = WidthPlan({}, {}, (), ())

ChainGroupings = Mapping[str, Grouping]


def check_layers(program: Program, layers: ChainGroupings, depth_mode: str | None = None) -> Soundness:
    """What a trial shows of a change of depth, by chain: going down, or growth in a ``depth_mode``.

    Groupings of growth give the block that each new one copies. Made once per program and request.
    """
    known: dict[Any, Soundness] = program.__dict__.setdefault("_depth_trials", {})
    key = depth_mode, frozenset(layers.items())
    if key not in known:
        known[key] = _DepthCheck(program.for_analysis(), layers, depth_mode).run() if layers else Soundness()
    return known[key]


@dataclass(frozen=True)
class _Small:
    """A program in small with few blocks, how these are grouped, its inputs, and what all nodes give."""

    program: Program
    layers: ChainGroupings
    inputs: list[Any]
    values: Values

    def without(self, chains: Iterable[str]) -> _Small:
        gone = set(chains)
        return dataclasses.replace(self, layers={n: g for n, g in self.layers.items() if n not in gone})


@dataclass(frozen=True)
class _Fault:
    chains: tuple[str, ...]
    node: fx.Node
    text: str


class _DepthCheck:
    """One trial: chains are taken out until the rest passes."""

    def __init__(self, program: Program, layers: ChainGroupings, depth_mode: str | None) -> None:
        self.program, self.layers, self.mode = program, layers, depth_mode

    def run(self) -> Soundness:
        faults: dict[str, Reason] = {}
        if any(draws(node) for node in self.program.graph.nodes):
            return Soundness(faults, "a miniature of it draws random numbers in evaluation")
        try:
            small = self._small()
            while small.layers and (fault := self._fault(small)) is not None:
                reason = Reason("tried", f"{fault.text}, as tried on a miniature", fault.node.name)
                faults |= dict.fromkeys(fault.chains, reason)
                small = small.without(fault.chains)
        except TooLarge:
            return Soundness(faults, "even a miniature of it is large")
        except Misfit as misfit:
            where = f"{misfit.node.target} at {misfit.node.meta.get('source') or misfit.node.name}"
            return Soundness(faults, f"a miniature of it does not run ({where}: {str(misfit)[:120]})")
        return Soundness(faults)

    def _small(self) -> _Small:
        program = self.program
        chosen = {name: _few(grouping, self.mode is None) for name, grouping in self.layers.items()}
        default = {axis.id for axis in program.axes if axis.coarsenable_by_default and axis.size > 1}
        together = kin(program)
        # blocks of which means are taken are as wide as one another
        factors = {axis: AxisGrowth(2) for axis in default if together.get(axis, {axis}) <= default}
        alike = {axis: min(others) for axis, others in together.items()}
        whole: frozenset[str] = frozenset()
        large = False
        while True:
            made = Miniature(program, factors, whole, large, chosen=chosen, alike=alike)
            try:
                inputs = made.inputs(example_leaves(program, mixed=True))
                results = run_trial(Trial(made.small), inputs)
                break
            except Misfit as misfit:
                at = {a for n in (misfit.node, *misfit.node.all_input_nodes) for a in self._axes_of(n)}
                at |= {other for axis in at for other in together.get(axis, ())}
                if large and not at.intersection(factors) - whole:
                    raise
                whole, large = whole | (at.intersection(factors) if large else set()), True
        small = made.small.program
        small.__dict__["blocks"] = made.blocks
        values = {node.name: value for node, value in results.values.items()}
        _reshape(small, values)
        layers = {
            name: _restricted(grouping, made.kept[name], self.mode is None)
            for name, grouping in self.layers.items()
        }
        return _Small(small, layers, inputs, values)

    def _axes_of(self, node: fx.Node) -> set[str]:
        return set(axes_in(self.program.axes.node_dims.get(node.name, ())))

    def _fault(self, small: _Small) -> _Fault | None:
        return self._unlike(small) or (self._down(small) if self.mode is None else self._up(small))

    def _unlike(self, small: _Small) -> _Fault | None:
        """Where the last block of a chain does not do, on another's tensors, what that one does."""
        as_is = {c.name: [_own(small.program, b.tensors) for b in c] for c in _chains(small)}
        found = laid_out(small.program, as_is, small.inputs)
        nodes = {node.name: node for node in small.program.graph.nodes}
        for chain in _chains(small):
            places = [(block.index, at, name) for block in chain for at, name in enumerate(block.aligned)]
            for block, at, name in places:
                value = None if _is_arbitrary(nodes[name]) else small.values.get(name)
                if _differs(found.get((chain.name, block, at)), value):
                    text = f"its blocks are not alike: {nodes[name].target} gives other values"
                    return _Fault((chain.name,), nodes[name], text)
        return None

    def _down(self, small: _Small) -> _Fault | None:
        program, fixed = small.program, constants(self.program)
        held: dict[str, list[Held]] = {}
        for chain in _chains(small):
            groups = [[chain.blocks[b].tensors for b in group] for group in small.layers[chain.name].kept]
            held[chain.name] = [_averaged(program, group, fixed) for group in groups]
        try:
            stacked = stack_down(program, small.layers, shapes=False)
        except MlgraphError:  # told, with what to do, where it is made
            return None
        recipes = coarse_recipes(program, program, _NO_PLAN, small.layers, stacked)
        return _compared(small, stacked, _filled(stacked, recipes), held)

    def _up(self, small: _Small) -> _Fault | None:
        program, mode = small.program, self.mode
        assert mode is not None, "growth has a mode"
        if mode == "random":
            return None
        try:
            stacked = restack(program, {n: g.coarse_of for n, g in small.layers.items()}, shapes=False)
            changes = residual_changes(program, small.layers, mode, "coarse")
        except MlgraphError:  # told, with what to do, where it is made
            return None
        fault = _compared(small, stacked, _grown(program, small, stacked, changes), _copied(small, changes))
        if fault is not None or mode == "copy" or changes.approximate:
            return fault
        return (
            self._not_kept(small, stacked, changes)
            if mode == "identity"
            else self._no_step(small, stacked, changes)
        )

    def _not_kept(self, small: _Small, stacked: Restacked, changes: Changes) -> _Fault | None:
        """What identities change after all."""
        kept: dict[fx.Node, Any] = {}
        _run(_grown(small.program, small, stacked, changes), small.inputs, kept)
        given = {(o.node.name, o.place): kept.get(node) for node, o in stacked.origins.items()}
        nodes = {node.name: node for node in small.program.graph.nodes}
        for index, chain in enumerate(small.program.blocks):
            if chain.name not in small.layers:
                continue
            copied = small.layers[chain.name].coarse_of
            found = given.get((chain.blocks[copied[-1]].exit, (index, len(copied) - 1)))
            exit = chain.blocks[-1].exit
            if _differs(found, small.values.get(exit)):
                text = f"its extra blocks are no identities: {nodes[exit].target} gives other values"
                return _Fault((chain.name,), nodes[exit], text)
        return None

    def _no_step(self, small: _Small, stacked: Restacked, changes: Changes) -> _Fault | None:
        """What scaled copies do other than one block, as their branches become small steps."""
        streams = [stream(small.program, chain, chain.blocks[0], "scaled")[0] for chain in _chains(small)]
        if any(found.norms for found in streams):
            # they act on the stream anew in every copy
            return None
        ends = _ends(small, changes)
        one, several = [], []
        for step in (0.0, _STEP):
            program = _scaled(small.program, ends, step)
            one.append(_run(program, small.inputs))
            several.append(_run(_grown(program, small, stacked, changes), small.inputs))
        for still, step, none, steps in zip(*one, *several, strict=True):
            if not (isinstance(still, torch.Tensor) and still.is_floating_point() and still.numel()):
                continue
            effect, left = (float((other - step).abs().max()) for other in (still, steps))
            if _differs(none, still) or (
                left > _OF_HIGHER_ORDER * effect and left > TOLERANCE * float(step.abs().max())
            ):
                exit = _chains(small)[0].blocks[-1].exit
                node = next(node for node in small.program.graph.nodes if node.name == exit)
                return _Fault(tuple(small.layers), node, f"scaled copies make no one step at {node.target}")
        return None


def _reshape(program: Program, values: Values) -> None:
    """Give the nodes of a program the shapes of their values, in the dtypes that they had."""
    for node in program.graph.nodes:
        value = program.tensors[str(node.target)] if node.op == "get_attr" else values.get(node.name)
        known = node.meta.get("val")
        if isinstance(value, torch.Tensor) and isinstance(known, torch.Tensor):
            shaped = torch.empty(value.shape, dtype=known.dtype, device="meta")
            node.meta = {**node.meta, "val": shaped}


def _chains(small: _Small) -> list[Chain]:
    return [chain for chain in small.program.blocks if chain.name in small.layers]


def _few(grouping: Grouping, down: bool) -> tuple[int, ...]:
    """Blocks that show what a grouping does: those of the first group, the last and the largest."""
    sizes = grouping.group_sizes
    groups = {0, grouping.coarse_of[0], grouping.coarse - 1, sizes.index(max(sizes))}
    if not down:
        return tuple(sorted(groups))
    return tuple(block for block, group in enumerate(grouping.coarse_of) if group in groups)


def _restricted(grouping: Grouping, blocks: Sequence[int], down: bool) -> Grouping:
    """A grouping of some blocks alone: of these going down, of copies of these going up."""
    if down:
        members = blocks
        groups = sorted({grouping.coarse_of[block] for block in blocks})
    else:
        members = [new for new, block in enumerate(grouping.coarse_of) if block in blocks]
        groups = list(blocks)
    coarse_of = tuple(groups.index(grouping.coarse_of[member]) for member in members)
    return dataclasses.replace(grouping, coarse_of=coarse_of, shares=_of(grouping, members))


def _of(grouping: Grouping, members: Sequence[int]) -> tuple[float, ...] | None:
    return None if grouping.shares is None else tuple(grouping.shares[member] for member in members)


def _own(program: Program, names: Sequence[str]) -> Held:
    return [program.tensors[name] for name in names]


def _averaged(program: Program, group: Sequence[Sequence[str]], fixed: Iterable[str]) -> Held:
    """What a block for a group of blocks holds: means of weights, the first of constants."""
    first, known = group[0], program.tensors
    held: dict[str, torch.Tensor] = {}
    for column in zip(*group, strict=True):
        terms = [known[name] for name in column]
        averages = column[0] not in set(fixed) and (terms[0].is_floating_point() or terms[0].is_complex())
        finite = averages and all(bool(torch.isfinite(term).all()) for term in terms)
        held[column[0]] = torch.stack(terms).mean(0) if finite else terms[0]
    for length, (direction, dim) in lengths(program).items():
        if length in held and direction in held:
            held[length] = torch.norm_except_dim(held[direction], 2, dim)
    return [held[name] for name in first]


def _copied(small: _Small, changes: Changes) -> dict[str, list[Held]]:
    """What the copies of blocks hold."""
    held: dict[str, list[Held]] = {}
    for chain in _chains(small):
        layout = small.layers[chain.name].coarse_of
        held[chain.name] = [_own(small.program, chain.blocks[old].tensors) for old in layout]
    for (chain_name, block, at), affine in changes.affine.items():
        tensors = held[chain_name][block]
        tensors[at] = affine.scale * tensors[at] + affine.shift
    return held


def _filled(stacked: Restacked, recipes: Mapping[str, TensorRecipe]) -> Program:
    values = {name: recipe.make() for name, recipe in recipes.items()}
    return with_lengths(stacked.program.replace(tensors=stacked.program.tensors.replace(values)))


def _grown(program: Program, small: _Small, stacked: Restacked, changes: Changes) -> Program:
    recipes = grown_recipes(program, program, _NO_PLAN, small.layers, stacked, changes)
    return _filled(stacked, recipes)


def _ends(small: _Small, changes: Changes) -> set[str]:
    """The tensors that scale residual branches."""
    blocks = {chain.name: chain.blocks for chain in _chains(small)}
    return {blocks[name][small.layers[name].coarse_of[new]].tensors[at] for name, new, at in changes.affine}


def _scaled(program: Program, names: Iterable[str], factor: float) -> Program:
    chosen = set(names)
    values = {name: t * factor if name in chosen else t for name, t in program.tensors.items()}
    return program.with_values(program.tensors.replace(values))


def _run(program: Program, inputs: Sequence[Any], kept: dict[fx.Node, Any] | None = None) -> list[Any]:
    given = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in inputs]
    tensors = {name: tensor.clone() for name, tensor in program.tensors.items()}
    with torch.no_grad():
        return Interpretation(program, tensors, widened=True, kept=kept).run(given)


def _compared(
    small: _Small, stacked: Restacked, made: Program, held: Mapping[str, Sequence[Held]]
) -> _Fault | None:
    """The first node of the rewritten graph that does not give what the blocks so laid out give."""
    wanted = laid_out(small.program, held, small.inputs)
    kept: dict[fx.Node, Any] = {}
    failed: Exception | None = None
    try:
        _run(made, small.inputs, kept)
    except Exception as error:  # an op on what it is not made for
        failed = error
    chains = tuple(small.program.blocks)
    aligned = {name: at for chain in chains for b in chain for at, name in enumerate(b.aligned)}
    for node in made.graph.nodes:
        origin = stacked.origins.get(node)
        if origin is None:
            continue
        old, place = origin.node, origin.place
        own = (chains[place[0]].name,) if place is not None else tuple(small.layers)
        own = own if set(own) <= set(small.layers) else tuple(small.layers)
        if failed is not None and node not in kept:
            return _Fault(own, old, f"{old.target} does not run at another depth ({first_line(failed)})")
        key = old.name if place is None else (chains[place[0]].name, place[1], aligned.get(old.name))
        if _is_arbitrary(node) or not _differs(kept.get(node), wanted.get(key)):
            continue
        if old.op == "get_attr" and old.users:
            reader = next(iter(old.users))
            return _Fault(own, reader, f"{reader.target} is given another {old.target} at another depth")
        return _Fault(own, old, f"{old.target} gives other values at another depth")
    return None


def _is_arbitrary(node: fx.Node) -> bool:
    """Whether a value is that of memory not written to yet, or such of which a part was replaced."""
    while has(node, Trait.REPLACES) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return has(node, Trait.UNSET)


def _differs(found: Any, wanted: Any) -> bool:
    if isinstance(found, (tuple, list)) and isinstance(wanted, (tuple, list)):
        return len(found) != len(wanted) or any(map(_differs, found, wanted))
    if not isinstance(found, torch.Tensor) or not isinstance(wanted, torch.Tensor):
        return False
    return relative_miss(found, wanted) > TOLERANCE
