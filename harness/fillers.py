"""Texts that say nothing about a neuron: what controls say, and what right descriptions are made worse with."""

from __future__ import annotations

GENERIC = "common words and punctuation in everyday written English text"
#: Stands for a description without a word, which no stage would pass on.
EMPTY = "(no description)"
_PADDING = (
    "All this is meant in the usual sense of the words, as far as it goes, and should be read as it stands, with "
    "nothing else implied by it one way or the other, since that is how such things are commonly put at some length"
)


def padded(text: str) -> str:
    """Return a description with as many words again that add no content."""
    words, padding = len(text.split()), _PADDING.split()
    return " ".join([f"{text}.", *(padding * (words // len(padding) + 1))[:words]])
