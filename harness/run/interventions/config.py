"""How neurons are clamped and steered, and what can be found wrong with that before time is spent."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.evidence import special_affixes
from harness.records import Exemplar, Neuron, Source, Split
from harness.subject import Decoding, Mode, Subject

T = TypeVar("T")


class Unit(enum.StrEnum):
    """What a strength is told in."""

    ABSOLUTE = "absolute"  # the activation itself
    PEAK = "peak"  # the neuron's highest activation on the explain split


@dataclass(frozen=True)
class EffectsConfig:
    """How the effect of a neuron on the next token is measured.

    Source of the defaults: Gur-Arieh et al. 2025, arXiv:2501.08319.

    Attributes:
        prompts: pieces of text over which the change is averaged, the same for all neurons.
        tokens: length of each.
        values: what the activation is clamped to.
        unit: what they are told in.
        top_tokens: tokens kept of those that rise, and of those that fall most.
    """

    prompts: int = 32
    tokens: int = 32
    values: Sequence[float] = (10.0, -10.0)
    unit: str = Unit.ABSOLUTE
    top_tokens: int = 50

    def __post_init__(self) -> None:
        _check_counts("effects", self, ("prompts", "tokens", "top_tokens"))
        object.__setattr__(self, "values", _values("effects", self.values))
        object.__setattr__(self, "unit", _choice("effects.unit", Unit, self.unit))


@dataclass(frozen=True)
class TextsConfig:
    """How steered texts are generated.

    Attributes:
        prompts: neutral beginnings.
        values: strengths; 0 is none of them, for the unsteered text is made anyway.
        unit: what they are told in.
        mode: whether the activation is clamped to the value, or the value is added to it.
        samples: texts for each neuron, prompt and strength.
        tokens: length of the continuation.
        temperature: of the distribution that is drawn from; 0 takes the likeliest token.
        top_p: only the likeliest tokens that together have this share are drawn.
    """

    prompts: Sequence[str] = ("I think that",)
    values: Sequence[float] = (1.0, 2.0, 4.0)
    unit: str = Unit.PEAK
    mode: str = Mode.CLAMP
    samples: int = 1
    tokens: int = 30
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _check_counts("texts", self, ("samples", "tokens"))
        if isinstance(self.prompts, str) or not self.prompts or len(set(self.prompts)) < len(self.prompts):
            raise HarnessError("steering.texts.prompts must be a list of at least one text, none of them twice")
        object.__setattr__(self, "prompts", tuple(str(prompt) for prompt in self.prompts))
        object.__setattr__(self, "values", _values("texts", self.values))
        object.__setattr__(self, "unit", _choice("texts.unit", Unit, self.unit))
        object.__setattr__(self, "mode", _choice("texts.mode", Mode, self.mode))
        if not 0 <= self.temperature < math.inf:
            raise HarnessError(f"steering.texts.temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise HarnessError(f"steering.texts.top_p must be above 0 and at most 1, not {self.top_p}")

    @property
    def decoding(self) -> Decoding:
        """How a text goes on."""
        return Decoding(self.tokens, self.temperature, self.top_p)


@dataclass(frozen=True)
class SteeringConfig:
    """Interventions on the subject, for the methods that look at what a neuron does.

    Attributes:
        effects: the change of the next token's logits.
        texts: generated texts.
        rows: rows of one forward pass; changes speed and memory only.
    """

    effects: EffectsConfig = field(default_factory=EffectsConfig)
    texts: TextsConfig = field(default_factory=TextsConfig)
    rows: int = 32

    def __post_init__(self) -> None:
        for name, kind in (("effects", EffectsConfig), ("texts", TextsConfig)):
            given: Any = getattr(self, name)
            if isinstance(given, Mapping):
                try:
                    object.__setattr__(self, name, kind(**given))
                except TypeError as error:
                    raise HarnessError(
                        f"steering.{name}: {str(error).replace(f'{kind.__name__}.__init__() ', '')}"
                    ) from error
        if not isinstance(self.rows, int) or self.rows < 1:
            raise HarnessError(f"steering.rows must be at least 1, not {self.rows}")

    def check_lengths(self, subject: Subject, *, effects: bool, texts: bool) -> None:
        """Check that the subject can read what it is given.

        Raises:
            HarnessError: if a prompt is too long for it, or nothing to go on from.
        """
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
                    f"the prompt {prompt!r} has no token of {subject.name} to go on from (steering.texts.prompts)"
                )
            if longest is not None and length + self.texts.tokens > longest:
                raise HarnessError(
                    f"the prompt {prompt[:40]!r} has {length} tokens, and {self.texts.tokens} more are too many for "
                    f"{subject.name}: it reads {longest} at once (steering.texts.prompts, steering.texts.tokens)"
                )


def peaks(exemplars: Sequence[Exemplar]) -> dict[Neuron, float]:
    """Return each neuron's highest activation on the explain split; those that are never active are left out.

    On the explain split only: what describers see must not depend on what judges hold back.
    """
    found: dict[Neuron, float] = {}
    for exemplar in exemplars:
        if exemplar.split is Split.EXPLAIN and exemplar.source is Source.TOP and exemplar.activation > 0:
            found[exemplar.neuron] = max(exemplar.activation, found.get(exemplar.neuron, 0.0))
    return found


def strengths(
    neurons: Sequence[Neuron], config: EffectsConfig | TextsConfig, scales: Mapping[Neuron, float]
) -> dict[Neuron, dict[float, float]]:
    """Return each neuron's strengths as the config tells them, with their values in units of its activation.

    Args:
        neurons: the neurons.
        config: the strengths.
        scales: the neurons' peaks; where the strengths are told in these, a neuron without one is left out.
    """
    if config.unit == Unit.ABSOLUTE:
        return {neuron: {value: value for value in config.values} for neuron in neurons}
    return {
        neuron: {value: value * scales[neuron] for value in config.values} for neuron in neurons if neuron in scales
    }


def _check_counts(section: str, config: Any, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise HarnessError(f"steering.{section}.{name} must be at least 1, not {value}")


def _values(section: str, values: Any) -> tuple[float, ...]:
    usable = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    if not usable or not all(isinstance(value, int | float) and math.isfinite(value) and value for value in values):
        raise HarnessError(
            f"steering.{section}.values must be a list of finite numbers other than 0, not {values}: what nothing is "
            "done to is measured anyway"
        )
    if len(set(values)) < len(values):
        raise HarnessError(f"steering.{section}.values has a number twice: {values}")
    return tuple(float(value) for value in values)


def _choice(name: str, kind: type[T], value: Any) -> T:
    try:
        return kind(value)  # type: ignore[call-arg]
    except ValueError as error:
        known = ", ".join(kind)  # type: ignore[arg-type]
        raise HarnessError(f"steering.{name}={value} is not known; choose from {known}") from error
