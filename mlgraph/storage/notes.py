"""Notes as the sentences that format 2 keeps of them, and back.

Files written before notes had kinds hold nothing but sentences, and this is the one place that reads a kind
out of one. Of a note whose sentence would be read otherwise, newer files keep kind and subject beside.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable
from typing import Any

from mlgraph.program.notes import Note, NoteKind
from mlgraph.storage.plain_values import Malformed, shorten

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


def encode_kinds(notes: Iterable[Note]) -> dict[str, Any]:
    """Kind and subject by sentence, of the notes that their sentences alone do not give back."""
    return {str(note): [note.kind, note.subject] for note in notes if decode_note(str(note)) != note}


def decode_notes(sentences: Iterable[str], kinds: Any) -> list[Note]:
    """The notes of a file; ``kinds`` is what :func:`encode_kinds` gave. Raises ``Malformed``."""
    if not isinstance(kinds, dict):
        raise Malformed("the kinds of its notes are no dict")
    return [
        _told(sentence, kinds[sentence]) if sentence in kinds else decode_note(sentence)
        for sentence in sentences
    ]


def _told(sentence: str, given: Any) -> Note:
    if not isinstance(given, list) or len(given) != 2 or not isinstance(given[1], str):
        raise Malformed(f"the kind of its note {shorten(sentence)} is malformed")
    kind, subject = given
    if kind not in typing.get_args(NoteKind):
        raise Malformed(f"its note {shorten(sentence)} is of a kind {shorten(repr(kind))} that is not known")
    whole = Note(kind, sentence, subject)
    return whole if str(whole) == sentence else Note(kind, sentence.removeprefix(f"{kind}: "), subject)


def decode_note(sentence: str) -> Note:
    """The note that a sentence alone tells of; of the kind ``"other"`` where no pattern fits."""
    for kind, pattern in _SENTENCES:
        found = re.fullmatch(pattern, sentence, re.DOTALL)
        if found:
            parts = found.groupdict()
            return Note(kind, parts.get("text") or sentence, parts.get("subject") or "")
    return Note("other", sentence)
