"""What ties a dim, as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.inspect.text.axes import any_block, fate
from mlgraph.inspect.text.console import heading
from mlgraph.inspect.text.layout import wrapped
from mlgraph.inspect.text.numbers import plural

if TYPE_CHECKING:
    from mlgraph.inspect.explain import AxisExplanation, DimExplanation, Step, Tie

_FEW = 3
_ROLES = {"both": "emits and contracts", "emits": "emits", "contracts": "contracts"}
_LEFT = 0.36
_LEAST_LEFT = 30


def explanation(dims: Iterable[DimExplanation], every: bool, width: int = 80) -> list[Any]:
    """Each dim's axes with their fate and their slots, and the way to the nearest or to ``every`` one."""
    lines: list[Any] = []
    for dim in dims:
        lines += [heading(f"{dim.tensor}[{dim.dim}] = {dim.text} ({dim.size:,})"), ""]
        if not dim.axes:
            lines += ["  on no axis", ""]
        for axis in dim.axes:
            lines += [*_axis(axis, every, width), ""]
    return lines[:-1]


def _axis(found: AxisExplanation, every: bool, width: int) -> Iterator[Text]:
    axis = found.axis
    title = Text("  ").append(axis.id, style="bold").append(f" ({axis.size:,}) ").append(fate(*found.fate))
    yield from _hanging(title, 4, width)
    for remark in found.remarks:
        yield from _hanging(Text(f"    {remark}"), 6, width)
    if found.chain and found.cause is not None and not found.asked:
        yield from _hanging(Text(f"    by {found.cause.op}, which it reaches through"), 6, width)
        yield from _way(found.chain, width)
    yield from _occurrences(found, width)
    shown = found.ties if every else _one_of_each_kind(found.ties)[:_FEW]
    for tie in shown:
        text = f"    tied to {tie.slot.tensor}[{tie.slot.dim}], which {_ROLES[tie.slot.role]} on it, through"
        yield from _hanging(Text(text), 8, width)
        yield from _way(tie.steps, width)
    if len(shown) < len(found.ties):
        left = plural(len(found.ties) - len(shown), "more slot")
        yield Text(f"    and to {left}; --all shows the way to each")


def _one_of_each_kind(ties: Iterable[Tie]) -> list[Tie]:
    kinds: dict[str, Tie] = {}
    for tie in ties:
        kinds.setdefault(any_block(f"{tie.slot.tensor}[{tie.slot.dim}]"), tie)
    return list(kinds.values())


def _hanging(text: Text, indent: int, width: int) -> Iterator[Text]:
    """A text in lines of at most ``width``, all but the first indented."""
    from rich.console import Console

    first, *rest = text.wrap(Console(width=width), width) or [text]
    yield first
    if rest:
        for line in rest:
            line.rstrip()
        tail = Text(" ").join(rest)
        for line in tail.wrap(Console(width=width), width - indent):
            yield Text(" " * indent).append(line)


def _occurrences(found: AxisExplanation, width: int) -> Iterator[Text]:
    """The slots of an axis by role, the numbers of blocks folded."""
    folded: dict[str, dict[str, int]] = defaultdict(dict)
    for slot in found.axis.slots:
        name = any_block(f"{slot.tensor}[{slot.dim}]")
        folded[slot.role][name] = folded[slot.role].get(name, 0) + 1
    for role, names in folded.items():
        told = ", ".join(f"{name} ×{number}" if number > 1 else name for name, number in names.items())
        yield from _hanging(Text(f"    {_ROLES[role]} in {told}"), 6, width)


def _way(steps: Sequence[Step], width: int) -> Iterator[Text]:
    """Nodes in order, those of one source line together, beside it."""
    left_width = max(int(_LEFT * width), _LEAST_LEFT)
    for source, group in groupby(steps, key=lambda step: step.source):
        nodes = [_node(step) for step in group]
        left = wrapped([f"{node} →" for node in nodes[:-1]] + nodes[-1:], left_width)
        room = width - left_width - 8
        line = short_source(source)
        right = [line if len(line) <= room else f"{line[: room - 1]}…"]
        for one, other in zip_longest(left, right, fillvalue=""):
            text = Text(f"      {one}".ljust(left_width + 8), no_wrap=True, overflow="ignore")
            text.append(other, "dim").rstrip()
            yield text


def _node(step: Step) -> str:
    return step.node if step.node.rstrip("_0123456789") == step.op.rstrip("_") else f"{step.node} ({step.op})"


def short_source(source: str) -> str:
    """``file.py:12: text`` without the folders of the file."""
    path, colon, rest = source.partition(":")
    return f"{PurePath(path).name}{colon}{rest}"
