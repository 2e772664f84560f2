"""Word stems, to recognise inflected forms of the same word."""

from __future__ import annotations

from functools import lru_cache

import snowballstemmer


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Return the Snowball (Porter2) stem of an English word, in lower case, for comparison only.

    Derived forms often share a stem (``music`` and ``musical``); irregular forms do not.
    """
    # A stemmer keeps state while it works, so threads must not share one.
    stemmed: str = snowballstemmer.stemmer("english").stemWord(word.lower())
    return stemmed
