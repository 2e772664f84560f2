"""Predicts values of tokens from the tokens that a description names.

The prediction knows single tokens only: no context, no positions, no syntax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.embedding import SentenceEncoder
from harness.methods import JudgeCase
from harness.records import Side
from harness.signed_text import read_tokens
from harness.text import plain
from judges.accuracy import Floats
from judges.parts import Predicted

#: Default exponent of the similarity: only near synonyms count.
SHARPNESS = 4.0


class TokenText:
    """The tokens of some windows, each distinct token once.

    Args:
        windows: the tokens of each window.

    Attributes:
        kinds: the distinct tokens, :func:`normalised`, with their indices.
        codes: for each token of all windows, one after the other, its index in ``kinds``.
    """

    def __init__(self, windows: Sequence[Sequence[str]]) -> None:
        self.kinds: dict[str, int] = {}
        known, flat = self.kinds, (token for window in windows for token in window)
        self.codes = np.array([known.setdefault(normalised(token), len(known)) for token in flat], np.intp)
        self._starts = np.cumsum([0, *map(len, windows[:-1])])
        self._vectors: dict[int, tuple[SentenceEncoder, Floats]] = {}

    def vectors(self, encoder: SentenceEncoder) -> Floats:
        """Return the static embeddings of ``kinds``."""
        if id(encoder) not in self._vectors:
            self._vectors[id(encoder)] = encoder, encoder.encode_words(list(self.kinds))
        return self._vectors[id(encoder)][1]

    def by_window(self, values: Floats) -> Floats:
        """Return the highest of the values of each window's tokens; ``values`` has one value for each of ``kinds``."""
        return np.asarray(np.maximum.reduceat(values[self.codes], self._starts))

    def highest_in(self, window: int, values: Floats) -> int:
        """Return the position in a window of the token with the highest value."""
        stop = self._starts[window + 1] if window + 1 < len(self._starts) else len(self.codes)
        return int(np.argmax(values[self.codes[self._starts[window] : stop]]))


@dataclass(frozen=True)
class TokenPredictor:
    """Predicts values of tokens.

    The prediction at a token t is the sum over the description's tokens s of ``sign(s) * similarity(s, t)``. The sign
    is +1 if s activates the neuron and -1 if it silences it. The similarity is 1 if s and t are equal (without spaces
    and word-piece marks, in lower case), else ``max(cosine, 0) ** sharpness`` of their static embeddings.

    Attributes:
        encoder: the model whose static embeddings are compared; None: only equal tokens are similar.
        sharpness: exponent. A high value counts only near synonyms.
    """

    encoder: SentenceEncoder | None
    sharpness: float = SHARPNESS

    def predict(self, case: JudgeCase, description: str, text: TokenText, side: Side = Side.INPUT) -> Floats:
        """Return the predicted value of each distinct token, (kinds,)."""
        return self.by_part(case, description, text, side).best

    def by_part(self, case: JudgeCase, description: str, text: TokenText, side: Side = Side.INPUT) -> Predicted:
        """Return what each part of the description predicts for each distinct token."""

        def predict(part: str) -> Floats:
            raising, lowering = read_tokens(part, case.tokens.get(part)).of_side(side)
            return self.similarity(raising, text) - self.similarity(lowering, text)

        return Predicted.of(case, description, predict, side)

    def similarity(self, tokens: Sequence[str], text: TokenText) -> Floats:
        """Return the summed similarity of each distinct token with some tokens, (kinds,)."""
        named = [normalised(token) for token in tokens]
        similarity = np.zeros((len(text.kinds), len(named)))
        if named and text.kinds and self.encoder is not None:
            cosine = text.vectors(self.encoder) @ self.encoder.encode_words(named).T
            similarity = np.maximum(cosine, 0.0).astype(np.float64) ** self.sharpness
        for column, token in enumerate(named):
            if token in text.kinds:
                similarity[text.kinds[token], column] = 1.0
        return np.asarray(similarity.sum(axis=1))


@lru_cache(maxsize=1 << 17)
def normalised(token: str) -> str:
    """Return :func:`harness.text.plain` of a token; white space alone stays."""
    return plain(token) or token
