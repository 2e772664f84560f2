"""Texts that say nothing about a neuron: what controls say, and what right descriptions are made worse with."""

from __future__ import annotations

import itertools

GENERIC = "common words and punctuation in everyday written English text"
#: Stands for a description without a word, which no stage would pass on.
EMPTY = "(no description)"
#: Six words each, so that whole sentences come within three words of any length that is asked for.
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
    """Return a description with about as many words again that add no content, in whole sentences.

    There is at least one sentence; else the words added are as many as were there, give or take three.
    """
    said = text.rstrip(" .")
    end = "" if said.endswith(("!", "?")) else "."
    count = max(1, (len(said.split()) + _SENTENCE // 2) // _SENTENCE)
    return " ".join([f"{said}{end}", *itertools.islice(itertools.cycle(_PADDING), count)])
