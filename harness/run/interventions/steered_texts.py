"""Texts that the subject generates with and without steering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records import Neuron, SteeredText
from harness.run.interventions.config import TextsConfig
from harness.seeds import derive_rng
from harness.subject import CausalModel, Intervention, Mode, Subject


def steered_texts(
    model: CausalModel,
    subject: Subject,
    strengths: Mapping[Neuron, Mapping[float, float]],
    config: TextsConfig,
    *,
    beginning: Sequence[int],
    rows: int,
    seed: int,
) -> Iterator[SteeredText]:
    """Yield the texts of some neurons, prompt by prompt.

    Args:
        model: generates the texts.
        subject: the same model, for its tokenizer.
        strengths: each neuron's strengths, with their values in units of its activation.
        config: prompts and decoding.
        beginning: special tokens before a text, which are not steered.
        rows: texts generated at once.
        seed: the run's seed.
    """
    # By unsigned neuron and raw value, because both signs of a neuron may need the same text.
    given: dict[tuple[Neuron, float | None], Intervention | None] = {}
    for neuron, by_strength in strengths.items():
        given[neuron.unsigned, None] = None
        for value in by_strength.values():
            one = Intervention(neuron, value, Mode(config.mode))
            given[neuron.unsigned, one.raw] = one
    tokenizer: Any = subject.tokenizer
    for prompt in config.prompts:
        ids = [*beginning, *tokenizer(prompt, add_special_tokens=False).input_ids]
        work = [(key, sample) for key in given for sample in range(config.samples)]
        made: dict[tuple[tuple[Neuron, float | None], int], str] = {}
        for start in range(0, len(work), rows):
            batch = work[start : start + rows]
            # Independent of the strength, so that texts of different strengths differ only by the strength.
            draws = [derive_rng(seed, "steered", neuron, prompt, sample) for (neuron, _), sample in batch]
            found = model.generate(ids, [given[key] for key, _ in batch], config.decoding, draws, spare=len(beginning))
            made |= {
                row: str(tokenizer.decode(new, skip_special_tokens=True)) for row, new in zip(batch, found, strict=True)
            }
        for neuron, by_strength in strengths.items():
            for sample in range(config.samples):
                yield SteeredText(neuron, prompt, sample, None, None, made[(neuron.unsigned, None), sample])
                for strength, value in by_strength.items():
                    raw = Intervention(neuron, value).raw
                    text = made[(neuron.unsigned, raw), sample]
                    yield SteeredText(neuron, prompt, sample, strength, round(value, 6), text)
