"""Settings of a planted subject: how many neurons, with how many concepts and how much noise each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from harness.errors import HarnessError
from harness.validation import (
    STRICT,
    Count,
    CountOrZero,
    Fraction,
    FractionOrZero,
    NonNegative,
    OneOrMore,
    Whole,
    explain,
)

#: Part of the key of everything planted. Raise it when equal settings give another subject than before.
FORMAT = 2


@cache
def concept_list() -> str:
    """Return the text of ``concepts.yaml``."""
    return resources.files("harness.planted").joinpath("concepts.yaml").read_text("utf-8")


@dataclass(frozen=True, config=STRICT)
class Level:
    """One difficulty: neurons that differ only in their concepts; conf/subject/planted.yaml documents the options."""

    neurons: Count
    reads: Count = 1
    writes: CountOrZero = 1
    negatives: CountOrZero = 0
    falloff: Fraction = 1.0
    noise: NonNegative = 0.0
    rate: Fraction | None = None

    @property
    def difficulty(self) -> tuple[float, ...]:
        """Sort key of difficulties: number of concepts, noise, unevenness of the weights, rarity."""
        return self.reads + self.negatives + self.writes, self.noise, 1 - self.falloff, 1 - (self.rate or 1)


@dataclass(frozen=True, config=STRICT)
class Planting:
    """Everything that a planted subject depends on; conf/subject/planted.yaml documents the options."""

    sources: OneOrMore[str]
    levels: Mapping[str, Level]
    sha256: str | None = None
    embedding: str = "embeddings.word_embeddings.weight"
    seed: Whole = 0
    words: Annotated[int, Field(strict=True, ge=8)] = 28
    only_weights: FractionOrZero = 0.25
    only_text: FractionOrZero = 0.25

    @field_validator("levels", mode="before")
    @classmethod
    def _drop_removed(cls, levels: Any) -> Any:
        return {name: level for name, level in levels.items() if level} if isinstance(levels, Mapping) else levels

    @field_validator("levels")
    @classmethod
    def _sort(cls, levels: Mapping[str, Level]) -> Mapping[str, Level]:
        if not levels:
            raise ValueError("at least one difficulty is needed")
        if len({level.rate is None for level in levels.values()}) > 1:
            raise ValueError("all difficulties or none must have a rate")
        # The order decides which neuron gets which concepts, so it must not depend on the order in the config.
        return dict(sorted(levels.items(), key=lambda item: (item[1].difficulty, item[0])))

    def __post_init__(self) -> None:
        if self.only_weights + self.only_text > 1:
            raise ValueError(f"only_weights + only_text must be at most 1, not {self.only_weights + self.only_text}")

    @cached_property
    def key(self) -> str:
        """Digest of the settings and the concept list: the name of the checkpoint's folder."""
        settings = dataclasses.asdict(self)
        if self.sha256 is not None:  # the expected model is the same wherever it is found
            del settings["sources"]
        digest = hashlib.sha256(json.dumps([FORMAT, concept_list(), settings], sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def level_of(self, index: int) -> Level:
        """Return the difficulty of the neuron with an index."""
        for level in self.levels.values():
            index -= level.neurons
            if index < 0:
                return level
        raise IndexError("there are fewer planted neurons")

    @classmethod
    def of(cls, settings: Mapping[str, Any] | Planting | None) -> Planting:
        """Return the settings of a config section.

        Raises:
            HarnessError: if a setting is invalid, or there are none because the subject was not planted.
        """
        if isinstance(settings, Planting):
            return settings
        if settings is None:
            raise HarnessError("planting: this needs a planted subject: subject=planted (or experiment=planted)")
        try:
            return cls(**settings)
        except ValidationError as error:
            raise HarnessError(explain(error, "subject.planting")) from error
