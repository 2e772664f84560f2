"""Sentence embeddings, for judges that need no LLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.subject.files import locate


@lru_cache(maxsize=2)
def _load(reference: str, revision: str | None) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """Return a model and what it has embedded so far: judges that name the same model share both."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(reference, revision=revision, device="cpu"), {}


class SentenceEncoder:
    """A sentence-embedding model; each text is embedded once in a run.

    Args:
        sources: where the model may be, tried in order (see :func:`harness.subject.files.locate`).
        revision: hub revision.
    """

    def __init__(self, sources: Sequence[str], revision: str | None = None) -> None:
        self._sources, self._revision = tuple(sources), revision

    def check(self) -> None:
        """Find the model.

        Raises:
            HarnessError: if no source has it.
        """
        locate(self._sources, self._revision)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), dimensions), each row of norm 1."""
        model, known = _load(locate(self._sources, self._revision).reference, self._revision)
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            vectors = model.encode(missing, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
            known.update(zip(missing, vectors, strict=True))
        return np.stack([known[text] for text in texts])
