"""Lines of a model's own source."""

from __future__ import annotations

import os
import sys
from types import FrameType

import sympy
import torch

from mlgraph import errors

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(errors.__file__) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep
_SYMPY = os.path.dirname(sympy.__file__) + os.sep
_PACKAGES = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)

# What is typed in, at a prompt or in a notebook, is in angle brackets too.
_GENERATED = ("<eval_with_key>", "<frozen ", "<mlgraph ")

SourceLine = tuple[str, int]


def outside(filename: str) -> bool:
    """Whether a source file is neither torch's nor this package's, nor Python's own."""
    if filename.startswith((_TORCH, _HERE, _SYMPY, *_GENERATED)):
        return False
    return not filename.startswith(_PYTHON) or any(part in filename for part in _PACKAGES)


def place_of_caller() -> SourceLine | None:
    """The file and line, outside torch and this package, from which code of theirs is called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not outside(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def uses_an_object(where: str, kind: str) -> str:
    """What is said of a line that uses an object of torch's own, of class ``kind``."""
    return (
        f"{where} uses an object of torch's ({kind}), which a program cannot hold; keep such objects out of "
        "forward"
    )
