"""What is planted: how many neurons, of how many concepts each, how deep in noise."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from harness.errors import HarnessError

#: Part of the key of everything planted: to be raised by whoever changes what equal settings give.
FORMAT = 1


@cache
def concept_list() -> str:
    """Return ``concepts.yaml``: the concepts, and the words that each begins with."""
    return resources.files("harness.planted").joinpath("concepts.yaml").read_text("utf-8")


@dataclass(frozen=True)
class Level:
    """One difficulty: neurons that are alike in everything but their concepts.

    Attributes:
        neurons: how many.
        reads: concepts that a neuron responds to.
        writes: concepts that it promotes, others than those it responds to.
        negatives: concepts that it responds to with a negative activation.
        falloff: weight of each further concept relative to the one before it, over 0 to 1; 1 makes all equal.
        noise: norm of the random part of each weight vector relative to that of the concepts.
    """

    neurons: int
    reads: int = 1
    writes: int = 1
    negatives: int = 0
    falloff: float = 1.0
    noise: float = 0.0

    @property
    def difficulty(self) -> tuple[float, ...]:
        """By what difficulties are ordered: concepts to find, noise, unevenness."""
        return self.reads + self.negatives + self.writes, self.noise, 1 - self.falloff


@dataclass(frozen=True)
class Planting:
    """All that a planted subject depends on.

    Attributes:
        sources: where the model may be whose token embedding is used (see :func:`harness.subject.files.locate`).
        sha256: expected SHA-256 of its ``model.safetensors``; none to skip the check.
        embedding: name of the embedding matrix in it.
        levels: difficulties by name.
        seed: which concepts each neuron gets, and all noise, derive from it.
        words: at most so many words per concept.
        only_weights: share of the concepts that no text of the planted corpus holds.
        only_text: share of the concepts that are not in the vocabulary projection (W_U).

    Raises:
        HarnessError: if a setting is out of range.
    """

    sources: tuple[str, ...]
    levels: Mapping[str, Level]
    sha256: str | None = None
    embedding: str = "embeddings.word_embeddings.weight"
    seed: int = 0
    words: int = 28
    only_weights: float = 0.25
    only_text: float = 0.25
    key: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if not self.levels:
            raise HarnessError("no difficulty is chosen (planting.levels)")
        for name, level in self.levels.items():
            where = f"planting.levels.{name}"
            _require(level.neurons >= 1, f"{where}.neurons must be at least 1, not {level.neurons}")
            _require(level.reads >= 1, f"{where}.reads must be at least 1, not {level.reads}")
            _require(level.writes >= 0, f"{where}.writes must not be negative, as {level.writes} is")
            _require(level.negatives >= 0, f"{where}.negatives must not be negative, as {level.negatives} is")
            _require(0 < level.falloff <= 1, f"{where}.falloff must be above 0 and at most 1, not {level.falloff}")
            _require(0 <= level.noise < 1e6, f"{where}.noise must be a number from 0 on, not {level.noise}")
        for option in ("only_weights", "only_text"):
            share = getattr(self, option)
            _require(0 <= share <= 1, f"planting.{option} is a share and must be between 0 and 1, not {share}")
        _require(
            self.only_weights + self.only_text <= 1,
            f"planting.only_weights ({self.only_weights}) and planting.only_text ({self.only_text}) are more than all",
        )
        _require(self.words >= 8, f"planting.words must be at least 8, not {self.words}")
        # The easiest first, whatever the order in a file: it decides which neuron gets what.
        ordered = sorted(self.levels.items(), key=lambda item: (item[1].difficulty, item[0]))
        object.__setattr__(self, "levels", dict(ordered))
        # Where the embedding is found changes nothing as long as it is the expected one.
        chosen = {name: value for name, value in dataclasses.asdict(self).items() if name not in {"key", "sources"}}
        if self.sha256 is None:
            chosen["sources"] = self.sources
        digest = hashlib.sha256(json.dumps([FORMAT, concept_list(), chosen], sort_keys=True).encode())
        object.__setattr__(self, "key", digest.hexdigest()[:16])

    @classmethod
    def of(cls, settings: Mapping[str, Any] | Planting | None) -> Planting:
        """Make it from a config's mapping.

        Raises:
            HarnessError: if there are no settings, for the subject is none that was planted; or one is unknown.
        """
        if isinstance(settings, Planting):
            return settings
        if settings is None:
            raise HarnessError("this needs a subject that was planted: subject=planted (or experiment=planted)")
        try:
            levels = {str(name): Level(**level) for name, level in dict(settings.get("levels") or {}).items() if level}
            others = {name: value for name, value in settings.items() if name not in {"levels", "sources"}}
            return cls(sources=_names(settings.get("sources")), levels=levels, **others)
        except TypeError as error:
            reason = str(error).replace("Planting.__init__() ", "").replace("Level.__init__() ", "")
            raise HarnessError(f"planting: {reason}") from error


def _names(sources: Sequence[str] | None) -> tuple[str, ...]:
    return (sources,) if isinstance(sources, str) else tuple(sources or ())


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise HarnessError(message)
