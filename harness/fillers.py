"""Texts without information about a neuron, for controls and corrupted descriptions."""

from __future__ import annotations

import itertools

from harness.text import word_count

GENERIC = "common words and punctuation in everyday written English text"
#: Used in place of an empty description, which the run would record as a failure.
EMPTY = "(no description)"
#: Sentences of six words each: whole sentences come within three words of any length.
_PADDING = (
    "This is meant as it stands.",
    "Nothing else is implied by it.",
    "The words have their usual sense.",
    "It goes as far as said.",
    "No more should be read here.",
    "Such things are commonly put so.",
)
_SENTENCE = 6


def padded(text: str) -> str:
    """Return a description padded to about twice its words with whole sentences that add no content (at least one)."""
    stripped = text.rstrip(" .")
    end = "" if stripped.endswith(("!", "?")) else "."
    count = max(1, (word_count(stripped) + _SENTENCE // 2) // _SENTENCE)
    return " ".join([f"{stripped}{end}", *itertools.islice(itertools.cycle(_PADDING), count)])
