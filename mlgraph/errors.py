"""What mlgraph raises when a request cannot be met."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MlgraphError(Exception):
    """A request that cannot be met.

    The message is one sentence that names the axis, op, file or option concerned and says what
    to do about it; the command line prints it and exits with code 1.
    """


class CaptureError(MlgraphError):
    """The model could not be captured as a graph; the message names the line of its source."""


class AxisError(MlgraphError):
    """An axis is unknown, frozen, or does not divide as asked."""


class FileError(MlgraphError):
    """A file is missing, malformed, hostile or cannot be written."""


def suggestion(wrong: str, right: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` or the list of names in ``right``, to end a sentence with."""
    names = sorted(right)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}" if close else f"; use one of {', '.join(names)}"
