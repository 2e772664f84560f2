"""Sentence embeddings, for methods that need no LLM."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.subject.files import first_line, locate
from harness.subject.files import sha256 as sha256_of
from harness.validation import OneOrMore, validated


@dataclass(frozen=True)
class _Loaded:
    """A model and its caches of embeddings by text, shared by all methods with the same model."""

    model: Any
    sentences: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    words: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """The input embeddings less their mean, (vocabulary, dimensions)."""
        rows: NDArray[np.float32] = self.model[0].auto_model.get_input_embeddings().weight.detach().float().numpy()
        centred: NDArray[np.float32] = rows - rows.mean(axis=0)
        return centred


@lru_cache(maxsize=2)
def _load(reference: str, revision: str | None) -> _Loaded:
    from sentence_transformers import SentenceTransformer  # slow to import

    from harness.subject.pretrained import from_pretrained, problem_of

    try:
        loaded = SentenceTransformer(reference, revision=revision, device="cpu", model_kwargs={"use_safetensors": True})
        # The library only logs a warning about missing weights.
        model: Any = loaded[0].auto_model
        problem = problem_of(*from_pretrained(type(model), model.name_or_path, revision=revision, device_map="meta"))
    except Exception as error:  # the libraries raise many classes for damaged files
        problem = first_line(error)
    if problem is not None:
        raise HarnessError(
            f"the sentence encoder {reference} cannot be loaded ({problem}); download it again "
            "or choose another (encoder.sources)"
        )
    return _Loaded(loaded)


class SentenceEncoder:
    """A sentence embedding model. Each text is embedded once per process.

    Args:
        sources: where to find the model, tried in order (see :func:`harness.subject.files.locate`).
        revision: revision on the hub.
        sha256: expected SHA-256 of its ``model.safetensors``; None skips the check.
    """

    @validated
    def __init__(self, sources: OneOrMore[str], revision: str | None = None, sha256: str | None = None) -> None:
        self._sources, self._revision, self._sha256 = sources, revision, sha256

    def check(self) -> None:
        """Check that the model can be found, and that its weights are the expected ones, or else that it can be loaded.

        Raises:
            HarnessError: if no source has it, its weights are not the expected ones, or it cannot be loaded.
        """
        files = locate(self._sources, self._revision)
        weights = files.fetch("model.safetensors") if self._sha256 else None
        if self._sha256 and (weights is None or sha256_of(weights) != self._sha256):
            raise HarnessError(
                f"the sentence encoder at {files.reference} is not the expected one (SHA-256 {self._sha256}): "
                "use another source, or set sha256=null in the judge to accept it"
            )
        if not self._sha256:
            assert self._loaded

    def is_one_of(self, weights: Collection[str]) -> bool:
        """Return whether its ``model.safetensors`` has one of the given SHA-256 hashes."""
        found = locate(self._sources, self._revision).fetch("model.safetensors")
        return found is not None and sha256_of(found) in weights

    @cached_property
    def _loaded(self) -> _Loaded:
        return _load(locate(self._sources, self._revision).reference, self._revision)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts, (len(texts), dimensions), each of norm 1.

        The model ignores what comes after its longest input. A longer text is embedded in parts of equal length that
        fit; its embedding is their normalised mean.
        """
        model, known = self._loaded.model, self._loaded.sentences
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            parts = [_parts(model, text) for text in missing]
            flat = [part for some in parts for part in some]
            vectors = model.encode(flat, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
            ends = np.cumsum([len(some) for some in parts])
            for text, some, end in zip(missing, parts, ends, strict=True):
                mean = vectors[end - len(some) : end].mean(axis=0)
                known[text] = vectors[end - 1] if len(some) == 1 else mean / max(float(np.linalg.norm(mean)), 1e-12)
        return np.stack([known[text] for text in texts])

    def encode_words(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return static embeddings of words or tokens, without context, (len(texts), dimensions).

        Each is the mean of the model's centred input embeddings over the text's word pieces, scaled to norm 1. It is
        zero if the model's tokenizer knows none of them, or the text is empty.
        """
        loaded = self._loaded
        missing = [text for text in dict.fromkeys(texts) if text not in loaded.words]
        if missing:
            tokenizer = loaded.model.tokenizer
            for text, pieces in zip(missing, tokenizer(missing, add_special_tokens=False)["input_ids"], strict=True):
                known = [piece for piece in pieces if piece != tokenizer.unk_token_id]
                vector = loaded.table[known].mean(axis=0) if known else np.zeros_like(loaded.table[0])
                loaded.words[text] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return np.stack([loaded.words[text] for text in texts])


def _parts(model: Any, text: str) -> list[str]:
    """Return a text in as few parts of equal length as its model can read without cutting them."""
    tokenizer, longest = model.tokenizer, model.max_seq_length
    # A token has at least one byte, so that a short text need not be tokenized.
    if longest is None or len(text.encode()) < longest or not getattr(tokenizer, "is_fast", False):
        return [text]
    longest -= tokenizer.num_special_tokens_to_add()
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(offsets) <= longest:
        return [text]
    count = -(-len(offsets) // longest)
    starts = [offsets[len(offsets) * part // count][0] for part in range(1, count)]
    return [text[start:stop] for start, stop in zip([0, *starts], [*starts, len(text)], strict=True)]
