"""How programs and their tables show themselves: as text, and in notebooks as HTML."""

from __future__ import annotations

import html
from typing import Any

from mlgraph.program.late import LATE, late


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
        found: list[Any] = late(type(self).__name__, "text")(self, width)
        return found

    def _repr_html_(self) -> str:
        kind = type(self).__name__
        shown: str = (
            late(kind, "html")(self) if f"{kind}.html" in LATE else f"<pre>{html.escape(str(self))}</pre>"
        )
        return shown
