"""What the panels of the explorer show, as text and as lines that lead somewhere. No screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from mlgraph.cli.browser.explorer import Explorer, Subject
from mlgraph.cli.browser.preview import CONTROLS, Preview, coarse_shape
from mlgraph.inspect.modules import Module, TensorLeaf
from mlgraph.inspect.summary import Summary
from mlgraph.inspect.text.axes import fate
from mlgraph.inspect.text.console import shortened
from mlgraph.inspect.text.modules import joined
from mlgraph.inspect.text.numbers import count, ratio, size
from mlgraph.passes.coalesce import Coalesce

_ROLES = {"both": "both     ", "emits": "emits    ", "contracts": "contracts"}
_LEAST_NAME = 16


@dataclass(frozen=True)
class PanelLine:
    """A line of a panel, and where choosing it leads."""

    text: Text
    leads: Subject | None = None


def label(item: Module | TensorLeaf, name: str) -> Text:
    """An item of the tree under a name: a module with its size, a tensor with its dims."""
    if isinstance(item, Module):
        times = f" ×{item.repeat}" if item.repeat > 1 else ""
        text = Text(name, style="bold" if item.repeat > 1 else "").append(times, "bold")
        if item.parameters:
            text.append(f"  {count(item.parameters)}", "dim")
        first = next((leaf for leaf in item.leaves if leaf.is_parameter), None)
        if first is not None and not item.children:
            text.append(f"  [{', '.join(first.dims)}]", "cyan")
        return text
    text = Text(name).append(f"  [{', '.join(item.dims)}]", "cyan" if item.is_parameter else "dim cyan")
    return text.append(f" = {item.tied}", "dim") if item.tied else text


def detail(explorer: Explorer, place: Subject, shown: Preview, room: int = 80) -> list[PanelLine]:
    """What there is to say of a place in ``room`` columns, with lines that lead on."""
    if place.kind == "axis":
        return list(_axis(explorer, place.key, shown, room))
    if place.kind == "tensor":
        return list(_tensor(explorer, place.key, shown))
    return list(_module(explorer, place.key))


def _module(explorer: Explorer, path: str) -> Iterator[PanelLine]:
    module = explorer.module(path)
    yield PanelLine(Text(path or explorer.program.name, style="bold"))
    if module.repeat > 1:
        yield PanelLine(Text(f"one of {module.repeat} alike"))
    yield PanelLine(
        Text(f"{module.parameters // module.repeat:,} parameters, {size(module.bytes // module.repeat)}")
    )
    if module.operations:
        share = module.operations / max(explorer.root.operations, 1)
        yield PanelLine(Text(f"{100 * share:.1f}% of the forward FLOPs"))
    for leaf in module.leaves:
        yield PanelLine(Text("  ").append(label(leaf, leaf.name)), Subject("tensor", leaf.path))
    for child in module.children:
        inner, name = joined(child)
        yield PanelLine(Text("  ").append(label(inner, name)), Subject("module", inner.path))
    for chain in explorer.program.blocks:
        if chain.name in (path, path.rpartition(".")[0]) and module.repeat in (1, len(chain)):
            yield PanelLine(Text(f"a chain of {len(chain)} blocks; depth divides them", "green"))


def _tensor(explorer: Explorer, path: str, shown: Preview) -> Iterator[PanelLine]:
    leaf = explorer.leaf(path)
    yield PanelLine(Text(path, style="bold"))
    if leaf is None:
        return
    kind = "parameter" if leaf.is_parameter else "buffer"
    after = coarse_shape(explorer.program, path, shown.sizes) if shown.sizes else None
    text = Text(f"{kind} {list(leaf.shape)}")
    if after is not None and after != leaf.shape:
        text.append(f" → {list(after)}", "bold yellow")
    yield PanelLine(text.append(f", {size(leaf.bytes)}"))
    if leaf.tied:
        yield PanelLine(Text(f"tied to {leaf.tied}"), Subject("tensor", leaf.tied))
    dims = explorer.dims(path)
    if not dims:
        yield PanelLine(Text("takes no part in what the model computes"))
    for dim in dims:
        yield PanelLine(Text(f"[{dim.index}] {dim.text}", "bold cyan").append(f"  {dim.size:,}", "default"))
        for axis in dim.axes:
            yield PanelLine(Text("  ").append(_axis_line(explorer, axis.id, shown)), Subject("axis", axis.id))


def _axis_line(explorer: Explorer, key: str, shown: Preview) -> Text:
    axis = explorer.axes[key]
    text = Text(f"{axis.name} {axis.size:,}")
    if key in shown.sizes:
        text.append(f" → {shown.sizes[key]:,}", "bold yellow")
    return text.append(" ").append(_fate(explorer, key, shown.request))


def _fate(explorer: Explorer, key: str, request: Coalesce) -> Text:
    axis = explorer.axes[key]
    if axis.frozen:
        return fate("frozen", str(axis.frozen))
    if key in request.freeze:
        return fate("kept", "you froze it")
    return fate("kept", str(axis.kept)) if axis.kept else fate("coarsenable", "")


def _axis(explorer: Explorer, key: str, shown: Preview, room: int) -> Iterator[PanelLine]:
    axis = explorer.axes[key]
    yield PanelLine(Text(f"axis {key}", style="bold"))
    yield PanelLine(_axis_line(explorer, key, shown))
    for slot in explorer.slots(key):
        times = f" ×{slot.number}" if slot.number > 1 else ""
        role = f"  {_ROLES[slot.role]} "
        name = shortened(slot.text, max(room - len(role) - len(times), _LEAST_NAME))
        text = Text(role, "dim").append(f"{name}{times}", "default")
        yield PanelLine(text, slot.first)
    if not axis.slots:
        yield PanelLine(Text("  in no parameter"))


def figures(before: Summary, shown: Preview) -> Table | Text:
    """The figures before and after, or the sentence that says why not."""
    if shown.refused:
        return Text(shown.refused, style="bold red")
    if shown.after is None and shown.parameters is not None:
        told = Text(f"params  {count(before.parameters)} → {count(shown.parameters)}")
        return told.append(f"  ×{ratio(shown.parameters, before.parameters)}", "dim")
    if shown.after is None:
        return Text("w and d choose factors of width and depth; + and - that of an axis", style="dim")
    after = shown.after
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    for name, old, new, form in (
        ("params", before.parameters, after.parameters, count),
        ("memory", before.bytes, after.bytes, size),
        ("FLOPs", before.flops, after.flops, count),
    ):
        told = Text(f"{form(old)} → {form(new)}")  # type: ignore[operator]
        if form is count:
            told.append(f"  ×{ratio(new, old)}", "dim")
        grid.add_row(name, told)
    for change in shown.changes:
        times = f" ×{change.number}" if change.number > 1 else ""
        grid.add_row(Text(f"{_short(change.name)}{times}", "yellow"), f"{change.before:,} → {change.after:,}")
    return grid


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"…{name[-19:]}"


def request_line(request: Coalesce) -> Text:
    """The factors that are chosen."""
    text = Text("coarsen ", "bold")
    changed = request.options()
    shown = [control for control in CONTROLS if control.name in changed or not control.choices]
    for number, control in enumerate(shown):
        text.append("  " if number else "").append(
            control.chosen(request), "bold yellow" if control.name in changed else ""
        )
    for name, factor in request.axes.items():
        text.append(f"  {_short(name)}={factor}", "bold yellow")
    for name in request.freeze:
        text.append(f"  {_short(name)} frozen", "cyan")
    return text
