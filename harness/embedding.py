"""Sentence embeddings, for judges that need no LLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.subject.files import first_line, locate
from harness.subject.files import sha256 as sha256_of


@lru_cache(maxsize=2)
def _load(reference: str, revision: str | None) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """Return a model and what it has embedded so far: judges that name the same model share both."""
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            reference, revision=revision, device="cpu", model_kwargs={"use_safetensors": True}
        ), {}
    except Exception as error:  # whatever the libraries beneath raise at files that are not as they should be
        raise HarnessError(
            f"the sentence encoder {reference} cannot be loaded ({first_line(error)}); download it again, "
            "or name another (encoder.sources)"
        ) from error


class SentenceEncoder:
    """A sentence-embedding model; each text is embedded once in a run.

    Args:
        sources: where the model may be, tried in order (see :func:`harness.subject.files.locate`).
        revision: hub revision.
        sha256: expected SHA-256 of its ``model.safetensors``; none to skip the check.
    """

    def __init__(self, sources: Sequence[str], revision: str | None = None, sha256: str | None = None) -> None:
        self._sources, self._revision, self._sha256 = tuple(sources), revision, sha256

    def check(self) -> None:
        """Find the model.

        Raises:
            HarnessError: if no source has it, or it is not the expected one.
        """
        files = locate(self._sources, self._revision)
        weights = files.fetch("model.safetensors") if self._sha256 else None
        if self._sha256 and (weights is None or sha256_of(weights) != self._sha256):
            raise HarnessError(
                f"the sentence encoder at {files.reference} is not the expected one (SHA-256 {self._sha256}): "
                "take it from another source, or set sha256=null in the judge if you mean this one"
            )

    @cached_property
    def _loaded(self) -> tuple[Any, dict[str, NDArray[np.float32]]]:
        return _load(locate(self._sources, self._revision).reference, self._revision)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), dimensions), each row of norm 1."""
        model, known = self._loaded
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            vectors = model.encode(missing, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
            known.update(zip(missing, vectors, strict=True))
        return np.stack([known[text] for text in texts])
