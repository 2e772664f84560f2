"""New text put before the subject: what its neurons make of sentences that no corpus held, such as an LLM's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.evidence.encoding import special_affixes
from harness.records import Neuron
from harness.subject import ActivationReader, Subject

#: Texts per forward pass.
_BATCH = 32


@dataclass(frozen=True)
class ReadText:
    """A text as the subject read it: one activation for each of its tokens, special ones left out.

    A text without tokens has no activation. Of a neuron at its negative sign they are those of the neuron times -1.
    """

    text: str
    activations: tuple[float, ...]

    @property
    def activation(self) -> float:
        """The highest activation; a text without tokens raises ValueError."""
        return max(self.activations)


class TextReader:
    """Runs the subject on new text. The model is loaded at the first question, once for all neurons, and then kept.

    The texts of one call are read together and those of several calls one call after the other, so that no answer
    depends on what else is asked at the time.

    Args:
        subject: the model.
        neurons: all neurons that may be asked for.
        device: where the model runs.
    """

    def __init__(self, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        self._subject, self._device = subject, device
        self._column = {neuron: column for column, neuron in enumerate(sorted({neuron.unsigned for neuron in neurons}))}
        self._reader: ActivationReader | None = None
        self._turn = asyncio.Lock()

    async def read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        """Return the texts with the activations of a neuron; a text too long for the model is read as far as it goes.

        Raises:
            HarnessError: if the model cannot be loaded, or computes what is no number.
        """
        async with self._turn:
            return await asyncio.to_thread(self._read, neuron, texts)

    def close(self) -> None:
        """Free the memory that the model holds; it can be asked again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        if self._reader is None:
            self._reader = ActivationReader(self._subject, list(self._column), self._device)
        tokenizer = self._subject.tokenizer
        prefix, suffix = special_affixes(tokenizer)
        longest = self._subject.max_tokens
        room = None if longest is None else longest - len(prefix) - len(suffix)
        found: dict[int, list[float]] = {}
        cut = {
            place: tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids[:room]
            for place, text in enumerate(texts)
        }
        # Texts of like length together, for padding is work thrown away.
        order = sorted((place for place, tokens in cut.items() if tokens), key=lambda place: (len(cut[place]), place))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            ids = torch.full((len(batch), len(prefix) + len(cut[batch[-1]]) + len(suffix)), tokenizer.pad_token_id or 0)
            attention = torch.zeros_like(ids)
            for row, place in enumerate(batch):
                whole = torch.tensor([*prefix, *cut[place], *suffix])
                ids[row, : len(whole)], attention[row, : len(whole)] = whole, 1
            read = self._reader.read(ids, attention)[..., self._column[neuron.unsigned]].cpu()
            for row, place in enumerate(batch):
                own = read[row, len(prefix) : len(prefix) + len(cut[place])]
                found[place] = (-own if neuron.negative else own).tolist()
        return [
            ReadText(text, tuple(round(value, 5) for value in found.get(place, []))) for place, text in enumerate(texts)
        ]
