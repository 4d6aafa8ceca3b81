"""Elements of SVG and HTML as text in which every value is escaped."""

from __future__ import annotations

import html
import json
import re
from typing import Any

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: object) -> str:
    """Text for an element or a quoted attribute; what XML cannot hold becomes U+FFFD."""
    return html.escape(_NOT_XML.sub("\ufffd", str(text)), quote=True)


def tag(name: str, attributes: dict[str, object], *children: str) -> str:
    """An element; attributes are escaped here, children are markup already. None leaves an attribute out."""
    given = "".join(
        f' {key}="{escaped(_number(value))}"' for key, value in attributes.items() if value is not None
    )
    inner = "".join(children)
    return f"<{name}{given}>{inner}</{name}>" if inner or name not in _EMPTY else f"<{name}{given}/>"


_EMPTY = frozenset(["path", "rect", "circle", "line", "polygon", "use"])


def _number(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def json_script(id: str, value: Any) -> str:
    """A script element that holds data; no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{escaped(id)}">{text}</script>'
