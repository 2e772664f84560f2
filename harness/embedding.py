"""Sentence embeddings, for methods that need no LLM."""

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
    """Return a model and its cache of embeddings, shared by all methods with the same model."""
    from sentence_transformers import SentenceTransformer  # slow to import

    try:
        return SentenceTransformer(
            reference, revision=revision, device="cpu", model_kwargs={"use_safetensors": True}
        ), {}
    except Exception as error:  # the libraries raise many classes for damaged files
        raise HarnessError(
            f"the sentence encoder {reference} cannot be loaded ({first_line(error)}); download it again "
            "or choose another (encoder.sources)"
        ) from error


class SentenceEncoder:
    """A sentence embedding model. Each text is embedded once per process.

    Args:
        sources: where to find the model, tried in order (see :func:`harness.subject.files.locate`).
        revision: revision on the hub.
        sha256: expected SHA-256 of its ``model.safetensors``; None skips the check.
    """

    def __init__(self, sources: Sequence[str], revision: str | None = None, sha256: str | None = None) -> None:
        self._sources, self._revision, self._sha256 = tuple(sources), revision, sha256

    def check(self) -> None:
        """Check that the model can be found.

        Raises:
            HarnessError: if no source has it, or its weights are not the expected ones.
        """
        files = locate(self._sources, self._revision)
        weights = files.fetch("model.safetensors") if self._sha256 else None
        if self._sha256 and (weights is None or sha256_of(weights) != self._sha256):
            raise HarnessError(
                f"the sentence encoder at {files.reference} is not the expected one (SHA-256 {self._sha256}): "
                "use another source, or set sha256=null in the judge to accept it"
            )

    @cached_property
    def _loaded(self) -> tuple[Any, dict[str, NDArray[np.float32]]]:
        return _load(locate(self._sources, self._revision).reference, self._revision)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts, (len(texts), dimensions), each of norm 1."""
        model, known = self._loaded
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            vectors = model.encode(missing, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
            known.update(zip(missing, vectors, strict=True))
        return np.stack([known[text] for text in texts])
