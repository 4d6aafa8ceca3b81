"""Why numbered modules that look alike are in no common chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import fx

from mlgraph.graph.ops import op_name

if TYPE_CHECKING:
    from mlgraph.graph.dataflow import Dataflow
    from mlgraph.program.block_table import Chain

_WIDE = 0.4

NumberedModules = dict[int, dict[str, tuple[int, ...]]]
"""Per number of a module list, its parameters by what follows the number, with their shapes."""


def near_misses(flow: Dataflow, chains: Sequence[Chain]) -> Iterator[str]:
    """One sentence per range of numbered modules that share most parameter names and no chain.

    Each names the first difference between the first two modules of the range.
    """
    for prefix, family in _families(flow).items():
        numbers = sorted(family)
        apart = [
            (first, second)
            for first, second in pairwise(numbers)
            if second == first + 1
            and _alike(family[first], family[second])
            and not any(_covers(chain, prefix, first, second) for chain in chains)
        ]
        while apart:
            start, stop = apart[0]
            pair = apart.pop(0)
            while apart and apart[0][0] == stop:
                stop = apart.pop(0)[1]
            yield f"{prefix}{start}-{stop} {_difference(flow, prefix, family, *pair)}"
    for name, parts in parted(flow).items():
        yield f"{name} holds {parts} layers in one tensor, which are no blocks: give each its own"


def parted(flow: Dataflow) -> dict[str, int]:
    """Tensors of the model that are read in parts far apart, an index at a time, with the number of parts."""
    calls = {node: at for at, node in enumerate(n for n in flow.nodes if n.op == "call_function")}
    found: dict[str, int] = {}
    for node in flow.nodes:
        if node.op != "get_attr":
            continue
        parts: list[fx.Node] = []
        for user in flow.users(node):
            parts += flow.users(user) if op_name(user) == "unbind" else [user]
        taken = {repr(part.args[1:]) for part in parts if op_name(part) in ("select", "getitem")}
        at = [calls[reader] for part in parts for reader in flow.users(part)]
        if 1 < len(taken) == len(parts) and at and max(at) - min(at) > _WIDE * len(calls):
            found[str(node.target)] = len(parts)
    return found


def _families(flow: Dataflow) -> dict[str, NumberedModules]:
    """Parameters under every numbered path component, outermost or inner."""
    families: dict[str, NumberedModules] = {}
    tensors = flow.program.tensors
    for name in tensors:
        parts = name.split(".") if name in tensors.parameters else []
        for at, part in enumerate(parts[:-1]):
            if at and part.isdigit():
                prefix, rest = ".".join(parts[:at]) + ".", ".".join(parts[at + 1 :])
                shape = tuple(tensors[name].shape)
                families.setdefault(prefix, {}).setdefault(int(part), {})[rest] = shape
    return dict(sorted(families.items()))


def _alike(first: Mapping[str, tuple[int, ...]], second: Mapping[str, tuple[int, ...]]) -> bool:
    # A single parameter in common is chance: layers of a Sequential all have a weight.
    common = first.keys() & second.keys()
    return len(common) > 2 and 2 * len(common) >= max(len(first), len(second))


def _covers(chain: Chain, prefix: str, first: int, second: int) -> bool:
    """Whether a chain holds both modules, holds a module around them, or lies inside one of them."""
    if chain.prefix is None:
        # Without numbers to go by: blocks that hold tensors of both modules, or read them as shared.
        names = {name for block in chain.blocks for name in block.tensors} | set(chain.shared)
        return all(any(name.startswith(f"{prefix}{n}.") for name in names) for n in (first, second))
    if chain.prefix == prefix:
        return first in chain.numbers and second in chain.numbers
    return prefix.startswith(chain.prefix) or chain.prefix.startswith(
        (f"{prefix}{first}.", f"{prefix}{second}.")
    )


def _difference(flow: Dataflow, prefix: str, family: NumberedModules, first: int, second: int) -> str:
    within = [_nodes(flow, f"{prefix}{number}") for number in (first, second, second + 1)]
    found = _unlike_parameters(prefix, family, first, second) or _unlike_operations(flow, *within[:2])
    nodes = within[:2]
    if found is None and all(within):
        # what blocks do is not all within the modules; behind the last of a list there is another thing
        nodes = [_until(flow, *ends) for ends in pairwise(within)]
        found = _unlike_operations(flow, *nodes)
    if found is not None:
        return f"differ: {found}"
    passed_on = {arg for node in nodes[1] for arg in flow.data[node]} & set(nodes[0])
    if len(passed_on) > 1:
        return (
            f"pass on {len(passed_on)} activations from one to the next, where blocks of a chain pass on one"
        )
    found = _unlike_reads(flow, *nodes)
    return f"differ: {found or 'they are not fed one by the other alone'}"


def _unlike_parameters(prefix: str, family: NumberedModules, first: int, second: int) -> str | None:
    left, right = family[first], family[second]
    for rest in [*left, *right]:
        if rest not in right or rest not in left:
            return f"only {prefix}{first if rest in left else second} has {rest}"
        if left[rest] != right[rest]:
            return f"{rest} is {list(left[rest])} vs {list(right[rest])}"
    return None


def _unlike_operations(flow: Dataflow, left: Sequence[fx.Node], right: Sequence[fx.Node]) -> str | None:
    for a, b in zip(left, right, strict=False):
        if flow.own_key(a) != flow.own_key(b):
            return f"{_described(a)} vs {_described(b)}"
        literals = [[repr(o) for o in flow.operands(n) if not isinstance(o, fx.Node)] for n in (a, b)]
        for x, y in zip(*literals, strict=False):
            if x != y:
                return f"{op_name(a)} constant {x} vs {y}"
    return None if len(left) == len(right) else f"{len(left)} vs {len(right)} operations"


def _unlike_reads(flow: Dataflow, left: Sequence[fx.Node], right: Sequence[fx.Node]) -> str | None:
    """The constant, else the op outside, that two like segments do not have in common.

    What the second reads of the first is what blocks of a chain pass on.
    """
    inside = set(left), set(right)
    found: str | None = None
    for a, b in zip(left, right, strict=True):
        for x, y in zip(flow.data[a], flow.data[b], strict=False):
            if x in inside[0] or y in inside[1] or x is y:
                continue
            if x.op == y.op == "get_attr" and flow.tensor_key(x) != flow.tensor_key(y):
                return f"the constant {x.target} vs {y.target}"
            if found is None and y not in inside[0] and op_name(a) != op_name(x):
                found = f"{op_name(a)} reads {x.name} vs {y.name}" if x.op != "get_attr" else None
    return found


def _nodes(flow: Dataflow, path: str) -> list[fx.Node]:
    """Operations that ran in a module, without those that only pass a tensor on."""
    found = []
    for node in flow.nodes:
        module = str(node.meta.get("module") or "")
        inside = module == path or module.startswith(f"{path}.")
        if node.op == "call_function" and inside and flow.data[node] and not flow.is_transparent(node):
            found.append(node)
    return found


def _until(flow: Dataflow, left: Sequence[fx.Node], right: Sequence[fx.Node]) -> list[fx.Node]:
    """Operations from one module's first to before the next one's first."""
    calls = flow.nodes[flow.order[left[0]] : flow.order[right[0]]]
    return [n for n in calls if n.op == "call_function" and flow.data[n] and not flow.is_transparent(n)]


def _described(node: fx.Node) -> str:
    value = node.meta.get("val")
    shape = getattr(value, "shape", None)
    return op_name(node) if shape is None else f"{op_name(node)} {list(shape)}"
