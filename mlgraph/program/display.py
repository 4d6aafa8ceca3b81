"""How programs and their tables show themselves: by the views of the command line and of notebooks.

Those stand above everything else, so they are looked up by name when something is shown.
"""

from __future__ import annotations

import importlib
from typing import Any

_VIEWS = {
    "Program": ("mlgraph.inspect.text.program", "program_view"),
    "AxisTable": ("mlgraph.inspect.text.axes", "table_view"),
    "BlockTable": ("mlgraph.inspect.text.blocks", "chain_view"),
}
_NOTEBOOK = "mlgraph.view.notebook"
_HTML = {"Program": "program_html", "AxisTable": "axes_html", "BlockTable": "blocks_html"}


class Shown:
    """Something that ``print`` shows as text of the terminal's width, ``rich.print`` with colours, and a
    notebook as HTML.
    """

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(color_system=None, highlight=False, emoji=False, markup=False)
        with console.capture() as captured:
            for renderable in self._view(console.width):
                console.print(renderable, crop=False)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich_console__(self, console: Any, options: Any) -> Any:
        yield from self._view(options.max_width)

    def _view(self, width: int) -> list[Any]:
        module, function = _VIEWS[type(self).__name__]
        found: list[Any] = getattr(importlib.import_module(module), function)(self, width)
        return found

    def _repr_html_(self) -> str:
        shown: str = getattr(importlib.import_module(_NOTEBOOK), _HTML[type(self).__name__])(self)
        return shown
