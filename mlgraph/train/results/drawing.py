"""What pages about training runs are made of: pictures as PNG, tables and a page as HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlgraph.train.errors import TrainError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mlgraph.train.results.metrics import Record

COSTS = {"flops": "training FLOPs", "seconds": "training time (s)"}
"""What runs are compared by, in words."""
FEW = 10
"""Evaluations below which a run's training loss is drawn too."""
COLOURS = ("#3b6fb6", "#c8553d", "#4f8a5b", "#8661a8", "#b8862b", "#4a9aa5", "#a8486d", "#666666")


def figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """An empty figure, sizes in inches. Raises ``TrainError`` where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise TrainError("A report needs matplotlib: pip install 'mlgraph[train]'.") from error
    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def png(drawn: Figure) -> bytes:
    """A figure as a PNG file, the same bytes for the same picture."""
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def label(axes: Any, cost: str) -> None:
    """Name the axes of a picture of evaluation loss against ``cost``."""
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("evaluation loss")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_course(axes: Any, name: str, history: Sequence[Record], cost: str, colour: str) -> None:
    """Draw a run's evaluations: a line at level 1, dashes at coarser levels; thin, where they are few, the
    training loss too.
    """
    evaluated = [record for record in history if "eval_loss" in record]
    if len(evaluated) < FEW:
        _draw_training(axes, history, cost, colour)
    axes.plot([], [], "-", color=colour, linewidth=1.6, label=name)
    for level, group in groupby(evaluated, key=lambda record: record["level"]):
        points = [(record[cost], record["eval_loss"]) for record in group]
        style = "-" if level == 1 else "--"
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.6, marker=marker, ms=3)


def _draw_training(axes: Any, history: Sequence[Record], cost: str, colour: str) -> None:
    trained = [record for record in history if "loss" in record and cost in record]
    for level, group in groupby(trained, key=lambda record: record["level"]):
        points = [(record[cost], record["loss"]) for record in group]
        style = "-" if level == 1 else "--"
        axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=0.6, alpha=0.6)


def html_picture(picture: bytes, about: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(picture).decode()
    return f'<figure><img alt="{html.escape(about)}" src="data:image/png;base64,{data}"></figure>'


def html_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are text."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_page(title: str, body: str) -> str:
    """A page by itself: styles inside, in the reader's light or dark colours."""
    return _PAGE.format(title=html.escape(title), body=body)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>mlgraph: {title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
color: light-dark(#222, #ddd); background: light-dark(#fff, #181818); }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .25rem .9rem .25rem 0; text-align: right; }}
tr {{ border-bottom: 1px solid light-dark(#ddd, #444); }}
th:first-child, td:first-child {{ text-align: left; }}
figure {{ margin: 1.5rem 0; }} img {{ max-width: 100%; background: #fff; }}
</style></head><body><h1>{title}</h1>
{body}</body></html>
"""
