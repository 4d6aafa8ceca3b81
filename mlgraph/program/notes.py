"""Notes: what is to be told about a program, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NoteKind = Literal[
    "fixed",  # the size of an input
    "traced",  # a check or a loop in forward that tracing left out or ran over everything
    "mode",  # what does not follow training and evaluation as the model does
    "call",  # what of the model, or of several calls of it, was captured
    "weights",  # names or shapes in which a model and its files differ
    "class",  # a class in arguments or results that is not at hand
    "kept",  # what a change of width or depth leaves as it is
    "assumed",  # what it changes without knowing
    "approximate",  # where it is no average or copy in the strict sense
    "unchecked",  # what was not run beside the model, or could not be checked
    "other",
]

_SHOWN: frozenset[NoteKind] = frozenset({"kept", "assumed", "approximate"})


@dataclass(frozen=True)
class Note:
    """A note on a program: its kind, the words, and what they are said of.

    ``subject`` names an input, tensor, axis or module, or a line of source (``file.py:12``); it is empty
    where there is no such thing. As a string, the words, behind the kind where that is one of a change of
    width or depth.
    """

    kind: NoteKind
    text: str
    subject: str = ""

    def __contains__(self, words: str) -> bool:
        """Whether the note has these words."""
        return words in str(self)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" if self.kind in _SHOWN else self.text
