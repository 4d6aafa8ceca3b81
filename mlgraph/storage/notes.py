"""Notes as the sentences that format 2 keeps of them, and back.

This is the one place that reads a kind out of a sentence: files hold nothing else.
"""

from __future__ import annotations

import re

from mlgraph.program.notes import Note, NoteKind

_SENTENCES: tuple[tuple[NoteKind, str], ...] = (
    ("kept", r"kept: (?P<text>the factor \S+ at (?P<subject>\S+), which is .*)"),
    ("kept", r"kept: (?P<text>(?P<subject>[^\s\[]+).*)"),
    ("assumed", r"assumed: (?P<text>(?P<subject>[^\s\[]+).*)"),
    ("approximate", r"approximate: (?P<text>means over (?P<subject>\S+) weigh .*)"),
    ("approximate", r"approximate: (?P<text>\S+ sums over (?P<subject>\S+) (inside|against) .*)"),
    ("approximate", r"approximate: (?P<text>.*)"),
    ("fixed", r"input (?P<subject>\S+) is fixed in .*"),
    ("traced", r"the loop over what occurs runs over all \d+: (?P<subject>\S+:\d+): .*"),
    ("traced", r"a (test for|check of) values .*is left out: (?P<subject>\S+:\d+): .*"),
    ("mode", r"(?P<subject>\S+|the model) \(\w+\) runs as in evaluation, .*"),
    ("mode", r"training behaviour other than dropout and batch norm is not preserved: .*"),
    ("call", r"(?P<subject>\S+) is called \d+ times; .*"),
    ("unchecked", r"not checked: .*"),
    ("call", r"captured without its loss, .*"),
    (
        "weights",
        r"weights (missing in the files|in the files that the model|of another shape).*",
    ),
    ("class", r"the structure (?P<subject>\S+) has no form in a file .*"),
    ("class", r"the class (?P<subject>\S+) is not registered here, .*"),
)
"""The kind of a note by its sentence: the first pattern that fits. Groups give its text and its subject."""


def decode_note(sentence: str) -> Note:
    """The note of a sentence in a file; of the kind ``"other"`` where no pattern fits."""
    for kind, pattern in _SENTENCES:
        found = re.fullmatch(pattern, sentence, re.DOTALL)
        if found:
            parts = found.groupdict()
            return Note(kind, parts.get("text") or sentence, parts.get("subject") or "")
    return Note("other", sentence)
