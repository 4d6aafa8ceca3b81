"""Two programs side by side, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.inspect.changes import chain_changes
from mlgraph.inspect.paired_modules import ADDED, CHANGED, REMOVED, SAME, ModulePair, TensorPair
from mlgraph.inspect.text.comparison import figures_table
from mlgraph.inspect.text.console import heading
from mlgraph.inspect.text.layout import Row, lay_out, wrapped
from mlgraph.inspect.text.modules import MARK, dims_of
from mlgraph.inspect.text.numbers import count, plural, ratio

if TYPE_CHECKING:
    from mlgraph.inspect.differences import AxisSizes, Differences
    from mlgraph.inspect.history import PassStep
    from mlgraph.inspect.modules import TensorLeaf

_WIDE = 110
_STYLES = {SAME: "", CHANGED: "yellow", ADDED: "green", REMOVED: "red"}


def side_by_side(found: Differences, width: int = 80, every: bool = False) -> list[Any]:
    """Lineage, figures, both trees as one with what changed marked, and the ops of which one has more.

    Modules in which nothing changed take one line each unless ``every`` tensor is to be shown.
    """
    axes = [_axis(axis) for axis in found.axes]
    chains = chain_changes(found.before, found.after)
    lines: list[Any] = [
        *(_lineage(side, steps) for side, steps in zip("AB", found.lineage, strict=True)),
        *_deeds(found.lineage, width),
        Text(),
        figures_table(found.before, found.after, chains, axes),
        Text(),
    ]
    if found.same:
        return [*lines, f"The graphs are the same, and so are all {plural(found.equal, 'tensor')}."]
    lines += _tree(found.modules, every, width)
    lines += [Text(), f"{plural(found.equal, 'tensor')} equal, {len(found.tensors)} not"]
    if found.operations:
        lines += [Text(), heading("ops of the graph, A → B")]
        told = [f"{op} {a} → {b}," for op, (a, b) in found.operations.items()]
        lines += [Text(line) for line in wrapped([*told[:-1], told[-1].rstrip(",")], width)]
    return lines


def _lineage(side: str, steps: Sequence[PassStep]) -> Text:
    return Text(f"{side}  {' → '.join(step.level for step in steps)}", style="bold")


def _deeds(both: tuple[Sequence[PassStep], Sequence[PassStep]], width: int) -> Iterator[Text]:
    """What each pass did, those that both programs went through once."""
    told: set[tuple[str, str]] = set()
    for steps in both:
        for before, step in pairwise(steps):
            if (step.level, step.operation) in told:
                continue
            told.add((step.level, step.operation))
            changed = [
                f"{change.name} {change.before} → {change.after}"
                f"{f' (×{change.number})' if change.number > 1 else ''}"
                for change in step.changes
            ]
            yield Text(f"   {before.level} → {step.level}  {step.operation}")
            parts = [f"{part}," for part in changed[:-1]] + changed[-1:]
            for line in wrapped(parts, width - 6):
                yield Text(f"      {line}", style="dim")


def _axis(axis: AxisSizes) -> tuple[str, str, str, str]:
    left, right = (", ".join(f"{size:,}" for size in sizes) or "-" for sizes in (axis.before, axis.after))
    single = len(axis.before) == len(axis.after) == 1
    times = f" ×{axis.number}" if axis.number > 1 else ""
    return f"axis {axis.name}{times}", left, right, ratio(axis.after[0], axis.before[0]) if single else ""


@dataclass(frozen=True)
class _ChangedLine:
    level: int
    mark: str
    label: str
    before: str
    after: str
    change: str
    dims: tuple[str, ...] = ()


def _tree(tree: ModulePair, every: bool, width: int) -> list[Text]:
    wide = width >= _WIDE
    rows = [
        Row(
            f"{line.mark} {MARK * line.level}",
            line.label,
            line.dims if wide else (),
            (line.before, line.after, line.change),
            _STYLES[line.mark],
        )
        for line in _lines(tree, 0, every)
    ]
    header = Row("  ", "module", ("dims",) if wide else (), ("A", "B", "change"), "bold")
    legend = (
        "~ changed,",
        "+ only in B,",
        "- only in A;",
        "× B's size by A's,",
        "Δ norm of B - A by that of A",
    )
    told = [Text(line, style="dim") for line in wrapped(legend, width)]
    return [*lay_out(header, rows, width), *told]


def _lines(pair: ModulePair, level: int, every: bool) -> Iterator[_ChangedLine]:
    pair, name = _without_single_steps(pair)
    first, second = pair.repeats
    if max(first, second) > 1 and not pair.folded:
        name = f"{name}…{int(name) + max(first, second) - 1}"
    title = name + (f" ×{first or second}" if max(first, second) > 1 else "")
    if first and second and first != second:
        title = f"{name} ×{first} → ×{second}"
    mark = pair.mark
    own = _tensors(pair)
    if not pair.children and len(own) == 1:
        yield _tensor(own[0], f"{title}.", level)
        return
    before, after = (count(n) if n else "" for n in pair.parameters)
    changed = pair.parameters[0] != pair.parameters[1] and all(pair.parameters)
    change = (
        f"×{ratio(pair.parameters[1], pair.parameters[0])}" if changed else "" if mark != SAME else "same"
    )
    yield _ChangedLine(level, mark, title, before, after, change)
    if mark == SAME and not every:
        return
    for tensors in own:
        yield _tensor(tensors, "", level + 1)
    for child in pair.children:
        yield from _lines(child, level + 1, every)


def _tensors(pair: ModulePair) -> list[list[TensorPair]]:
    """The tensors in groups that share a line: vectors of one mark go with the matrix before them."""
    shown = [tensor for tensor in pair.tensors if _is_shown(tensor)]
    matrices = [tensor for tensor in shown if len((tensor.before or tensor.after).shape) > 1]  # type: ignore[union-attr]
    if shown and len(matrices) <= 1 and len({tensor.mark for tensor in shown}) == 1:
        return [shown]
    return [[tensor] for tensor in shown]


def _is_shown(tensor: TensorPair) -> bool:
    """Buffers only where they differ."""
    leaf = tensor.before or tensor.after
    return leaf is not None and (leaf.is_parameter or tensor.mark != SAME)


def _tensor(tensors: Sequence[TensorPair], title: str, level: int) -> _ChangedLine:
    first, *others = tensors
    label = f"{title}{first.name}" + "".join(f" +{tensor.name}" for tensor in others)
    gaps = [tensor.gap for tensor in tensors if tensor.gap]
    change = f"Δ {max(gaps):.2g}" if gaps else "same" if first.mark == SAME else _ratio(first)
    before, after = (_shape(leaf) for leaf in (first.before, first.after))
    leaf = first.before or first.after
    return _ChangedLine(level, first.mark, label, before, after, change, dims_of(leaf) if leaf else ())


def _ratio(tensor: TensorPair) -> str:
    if tensor.before is None or tensor.after is None or not tensor.before.numel:
        return ""
    return f"×{ratio(tensor.after.numel, tensor.before.numel)}"


def _shape(leaf: TensorLeaf | None) -> str:
    return "" if leaf is None else f"[{', '.join(map(str, leaf.shape))}]"


def _without_single_steps(pair: ModulePair) -> tuple[ModulePair, str]:
    """Join a module that holds nothing but one other to it: ``encoder.layer``."""
    name = pair.name
    while not pair.tensors and len(pair.children) == 1 and pair.repeats == (1, 1):
        pair = pair.children[0]
        name = name if pair.folded else f"{name}.{pair.name}"
    return pair, name
