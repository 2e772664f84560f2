"""Runs the subject on new text, such as sentences written by an LLM, and returns its neurons' activations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from harness.evidence.encoding import framed, special_affixes
from harness.records import Neuron
from harness.subject import ActivationReader, Subject

#: Texts per forward pass.
_BATCH = 32


@dataclass(frozen=True)
class ReadText:
    """A text with one activation for each of its tokens, special tokens left out.

    A text without tokens has no activations. For a neuron with negative sign, activations are multiplied by -1.
    """

    text: str
    activations: tuple[float, ...]

    @property
    def activation(self) -> float:
        """The highest activation; raises ValueError for a text without tokens."""
        return max(self.activations)


class TextReader:
    """Runs the subject on new text. The model is loaded on first use, once for all neurons, and kept.

    The texts of one call are batched together, and calls run one after the other, so that no answer depends on
    concurrent requests.

    Args:
        subject: the model.
        neurons: all neurons that may be read.
        device: device of the model.
    """

    def __init__(self, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        self._subject, self._device = subject, device
        self._column = {neuron: column for column, neuron in enumerate(sorted({neuron.unsigned for neuron in neurons}))}
        self._reader: ActivationReader | None = None
        self._lock = asyncio.Lock()

    async def read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        """Return the texts with a neuron's activations; texts that are too long for the model are cut.

        Raises:
            HarnessError: if the model cannot be loaded, or returns values that are not finite.
        """
        async with self._lock:
            return await asyncio.to_thread(self._read, neuron, texts)

    def close(self) -> None:
        """Free the model's memory. The next call of :meth:`read` loads it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        if self._reader is None:
            self._reader = ActivationReader(self._subject, list(self._column), self._device)
        tokenizer = self._subject.tokenizer
        prefix, suffix = special_affixes(tokenizer)
        longest = self._subject.max_tokens
        limit = None if longest is None else longest - len(prefix) - len(suffix)
        tokens = [
            tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids[:limit]
            for text in texts
        ]
        found: list[list[float]] = [[] for _ in texts]
        # Sorted by length, which minimises padding.
        order = sorted((index for index in range(len(texts)) if tokens[index]), key=lambda index: len(tokens[index]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            ids, attention = framed([tokens[index] for index in batch], prefix, suffix, self._subject.padding_id)
            read = self._reader.read(ids, attention)[..., self._column[neuron.unsigned]].cpu()
            for row, index in enumerate(batch):
                values = read[row, len(prefix) : len(prefix) + len(tokens[index])]
                found[index] = (-values if neuron.negative else values).tolist()
        return [
            ReadText(text, tuple(round(value, 5) for value in values))
            for text, values in zip(texts, found, strict=True)
        ]
