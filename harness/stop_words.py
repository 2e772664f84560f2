"""The English words without content that scikit-learn lists."""

from __future__ import annotations

from functools import cache


@cache
def stop_words() -> frozenset[str]:
    """Return the words, in lower case."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # imported here to keep start-up fast

    return frozenset(ENGLISH_STOP_WORDS)
