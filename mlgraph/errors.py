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


def suggestion(wrong: str, right: Iterable[str], instead: str = "use one of {}.") -> str:
    """The end of a sentence about a wrong name: ``"did you mean 'x'?"`` for the name in ``right`` like it.

    Where none is, ``instead``, which may list the names in place of ``{}``.
    """
    names = list(right)
    close = nearest(wrong, names, 1)
    return f"did you mean {close[0]!r}?" if close else instead.format(", ".join(names))


def nearest(wrong: str, right: Iterable[str], most: int) -> list[str]:
    """The names in ``right`` that are like a wrong one, the likest first, at most ``most``."""
    return difflib.get_close_matches(wrong, list(right), n=most, cutoff=0.5)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error of others, at most ``most`` characters and without the period it ends in.

    The error's type stands for one that says nothing.
    """
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:most].rstrip(".")
