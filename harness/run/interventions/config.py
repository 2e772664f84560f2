"""How neurons are clamped and steered, and what can be checked about that before the run."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from harness.errors import HarnessError
from harness.records import Exemplar, Neuron, Source, Split
from harness.subject import Decoding, Mode, Subject
from harness.validation import DISTINCT, STRICT, Count, CountOrZero, Fraction, NonNegative, Number, OneOrMore


class Unit(enum.StrEnum):
    """The unit of a strength."""

    ABSOLUTE = "absolute"  # the activation itself
    PEAK = "peak"  # the neuron's highest activation on the explain split


def _without_zero(values: tuple[float, ...]) -> tuple[float, ...]:
    if 0 in values:
        raise ValueError(f"must be numbers other than 0, not {list(values)}: the unchanged model is always included")
    return values


Values = Annotated[OneOrMore[Number], Field(min_length=1), AfterValidator(_without_zero), DISTINCT]
Prompts = Annotated[OneOrMore[str], Field(min_length=1), DISTINCT]


@dataclass(frozen=True, config=STRICT)
class EffectsConfig:
    """How the effect of a neuron on the next token is measured.

    ``conf/config.yaml`` documents the options. Source of the defaults: Gur-Arieh et al. 2025, arXiv:2501.08319.
    """

    prompts: Count = 32
    tokens: Count = 32
    values: Values = (10.0, -10.0)
    unit: Unit = Unit.ABSOLUTE
    top_tokens: Count = 50
    sampled_tokens: CountOrZero = 5000


@dataclass(frozen=True, config=STRICT)
class TextsConfig:
    """How steered texts are generated.

    ``conf/config.yaml`` documents the options.
    """

    prompts: Prompts = ("I think that",)
    values: Values = (1.0, 2.0, 4.0)
    unit: Unit = Unit.PEAK
    mode: Mode = Mode.CLAMP
    samples: Count = 1
    tokens: Count = 30
    temperature: NonNegative = 1.0
    top_p: Fraction = 1.0

    @property
    def decoding(self) -> Decoding:
        """How a text is continued."""
        return Decoding(self.tokens, self.temperature, self.top_p)


@dataclass(frozen=True, config=STRICT)
class SteeringConfig:
    """Interventions on the subject, for methods that use what a neuron does to the model's output.

    ``conf/config.yaml`` documents the options.
    """

    effects: EffectsConfig = field(default_factory=EffectsConfig)
    texts: TextsConfig = field(default_factory=TextsConfig)
    rows: Count = 32

    def check_lengths(self, subject: Subject, *, effects: bool, texts: bool) -> None:
        """Check that the prompts fit the subject.

        Raises:
            HarnessError: if a prompt is too long for it, or has no token.
        """
        from harness.evidence import special_affixes  # imports PyTorch

        longest, start = subject.max_tokens, len(special_affixes(subject.tokenizer)[0])
        if effects and longest is not None and start + self.effects.tokens > longest:
            raise HarnessError(
                f"pieces of {self.effects.tokens} tokens are too long for {subject.name}: it reads {longest} at once, "
                f"{start} special ones included (steering.effects.tokens)"
            )
        for prompt in self.texts.prompts if texts else ():
            length = start + len(subject.tokenizer(prompt, add_special_tokens=False).input_ids)
            if not length:
                raise HarnessError(
                    f"the prompt {prompt!r} has no token in the tokenizer of {subject.name} (steering.texts.prompts)"
                )
            if longest is not None and length + self.texts.tokens > longest:
                raise HarnessError(
                    f"the prompt {prompt[:40]!r} has {length} tokens, and {self.texts.tokens} more are too many for "
                    f"{subject.name}: it reads {longest} at once (steering.texts.prompts, steering.texts.tokens)"
                )


def peaks(exemplars: Iterable[Exemplar]) -> dict[Neuron, float]:
    """Return each neuron's highest activation on the explain split; neurons that are never active are left out.

    Only the explain split is used, because what describers see must not depend on the judges' evidence.
    """
    found: dict[Neuron, float] = {}
    for exemplar in exemplars:
        if exemplar.split is Split.EXPLAIN and exemplar.source is Source.TOP and exemplar.activation > 0:
            found[exemplar.neuron] = max(exemplar.activation, found.get(exemplar.neuron, 0.0))
    return found


def strengths(
    neurons: Sequence[Neuron], config: EffectsConfig | TextsConfig, scales: Mapping[Neuron, float]
) -> dict[Neuron, dict[float, float]]:
    """Return each neuron's strengths in the config's unit, with their values in units of its activation.

    ``scales`` has the neurons' peaks; if the unit is the peak, a neuron without one is left out.
    """
    units = dict.fromkeys(neurons, 1.0) if config.unit is Unit.ABSOLUTE else scales
    return {neuron: {value: value * units[neuron] for value in config.values} for neuron in neurons if neuron in units}
