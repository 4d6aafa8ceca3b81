"""What mlgraph raises when a request cannot be met."""

from __future__ import annotations


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
