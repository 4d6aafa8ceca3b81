"""What programs and tables know only by name: analyses and views, which stand above them.

This is the one place where the ground refers upward. Nothing here is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

LATE = {
    "Program.axes": "mlgraph.axes.build:infer_axes",
    "Program.blocks": "mlgraph.blocks.find:find_blocks",
    "Program.sound": "mlgraph.rewrite.self_check:check_defaults",
    "Program.text": "mlgraph.inspect.text.program:program_view",
    "Program.html": "mlgraph.view.notebook:program_html",
    "AxisTable.text": "mlgraph.inspect.text.axes:table_view",
    "AxisTable.html": "mlgraph.view.notebook:axes_html",
    "BlockTable.text": "mlgraph.inspect.text.blocks:chain_view",
    "BlockTable.html": "mlgraph.view.notebook:blocks_html",
    "Module.text": "mlgraph.inspect.text.modules:module_view",
    "Differences.text": "mlgraph.inspect.text.differences:side_by_side",
}
"""Class and property to ``module:function``."""


def late(kind: str, what: str) -> Any:
    """The function that makes ``what`` (``"axes"``, ``"text"``, …) of an object of the class ``kind``."""
    module, _, function = LATE[f"{kind}.{what}"].partition(":")
    return getattr(importlib.import_module(module), function)
