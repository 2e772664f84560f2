"""Sections of the config that belong to the run itself: neurons, decomposition, diagnostics, comparisons."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as validated_dataclass

from harness.decomposition import DecompositionConfig
from harness.errors import HarnessError
from harness.records import Neuron, Sign, VectorKind
from harness.seeds import derive_rng
from harness.subject import Subject
from harness.validation import STRICT, Count, CountOrZero, FractionOrZero, Positive, explain

logger = logging.getLogger(__name__)


@validated_dataclass(frozen=True, config=STRICT)
class NeuronSelection:
    """Which neurons are described, and which of their weight vectors are decomposed.

    The files of ``conf/neurons/`` document the options.
    """

    layers: Sequence[int] | None
    kinds: Annotated[Sequence[VectorKind], Field(min_length=1)] | None
    indices: Sequence[int] | None = None
    per_layer: int | None = None
    experts: Sequence[int | str] | None = None
    signs: Annotated[Sequence[Sign], Field(min_length=1)] = (Sign.POSITIVE,)

    def kinds_of(self, subject: Subject) -> tuple[VectorKind, ...]:
        """Return the vector kinds that are decomposed."""
        return subject.kinds if self.kinds is None else tuple(self.kinds)

    def select(self, subject: Subject, seed: int) -> list[Neuron]:
        """Return the neurons, ordered.

        Raises:
            HarnessError: if a layer, a neuron or a vector kind does not exist.
        """
        layers = range(subject.num_layers) if self.layers is None else sorted(set(self.layers))
        if not layers:
            raise HarnessError("no layer is chosen (neurons.layers)")
        if self.indices is not None and self.per_layer is not None:
            raise HarnessError("neurons.indices and neurons.per_layer are both set; set one of them to null")
        neurons = [neuron for layer in layers for neuron in self._select_in(layer, subject, seed)]
        if not neurons:
            raise HarnessError("no neuron is chosen (neurons.indices)")
        return neurons

    def _select_in(self, layer: int, subject: Subject, seed: int) -> list[Neuron]:
        subject.check(layer, [], self.kinds_of(subject))
        available = subject.neurons(layer, self.experts)
        if self.indices is not None:
            experts = {neuron.expert for neuron in available}
            chosen = {Neuron(layer, index, expert) for expert in experts for index in self.indices}
            subject.check(layer, [neuron.index for neuron in chosen], [], [neuron.expert for neuron in chosen])
            return sorted(chosen)
        if self.per_layer is None:
            return list(available)
        if not 1 <= self.per_layer <= len(available):
            raise HarnessError(
                f"neurons.per_layer={self.per_layer}, but layer {layer} of {subject.name} has {len(available)} "
                "neurons" + (" in the chosen experts" if self.experts else "")
            )
        drawn = derive_rng(seed, "neurons", layer).choice(len(available), self.per_layer, replace=False)
        return [available[index] for index in sorted(map(int, drawn))]


@dataclass(frozen=True)
class DecompositionPlan:
    """Decomposition settings, with exceptions for some layers and vector kinds.

    Attributes:
        settings: the fields of DecompositionConfig where no exception applies.
        overrides: exceptions, applied in order: ``layers`` and ``kinds`` (None: all) select where the other keys apply.
        seed: the run's seed.
    """

    settings: Mapping[str, Any]
    overrides: Sequence[Mapping[str, Any]]
    seed: int

    def config(self, layer: int, kind: VectorKind) -> DecompositionConfig:
        """Return the settings for one layer and vector kind.

        Raises:
            HarnessError: if a setting is unknown or out of range.
        """
        settings: dict[str, Any] = {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in self.settings.items()
        }
        for exception in self.overrides:
            layers, kinds = exception.get("layers"), exception.get("kinds")
            if (layers is None or layer in layers) and (kinds is None or kind in kinds):
                for name, value in exception.items():
                    if isinstance(value, Mapping):
                        settings[name] = {**settings.get(name, {}), **value}
                    elif name not in {"layers", "kinds"}:
                        settings[name] = value
        try:
            return DecompositionConfig(**settings, seed=self.seed)
        except (TypeError, ValueError) as error:
            raise HarnessError(explain(error, "decomposition")) from error


@validated_dataclass(frozen=True, config=STRICT)
class DiagnosticsConfig:
    """What is decomposed in addition to the run's vectors, to judge the decomposition.

    ``conf/config.yaml`` documents the options.
    """

    sample: CountOrZero
    restarts: Count
    jitter: Positive
    top_tokens: Count
    random_vectors: CountOrZero
    random: Literal["covariance", "isotropic"]
    random_channels: Count
    ablated: CountOrZero
    text_ablated: CountOrZero
    text_pieces: Count
    text_tokens: Count


@validated_dataclass(frozen=True, config=STRICT)
class ExplainerCheckConfig:
    """How the explainer is checked before it describes neurons.

    ``conf/config.yaml`` documents the options.
    """

    concepts: CountOrZero
    warn_below: FractionOrZero


@validated_dataclass(frozen=True, config=STRICT)
class ComparisonConfig:
    """Which comparisons are made.

    ``conf/config.yaml`` documents the options.
    """

    schedule: Literal["all", "baseline"]
    baseline: str | None
    retest: FractionOrZero
    layers: Mapping[str, Annotated[tuple[int, ...], Field(min_length=1)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.baseline is not None) != (self.schedule == "baseline"):
            raise ValueError(
                f"baseline must be a describer with schedule=baseline and null otherwise, not {self.baseline!r}"
            )

    def judged(self, judge: str, neurons: Iterable[Neuron]) -> list[Neuron]:
        """Return the neurons that a judge judges."""
        return [neuron for neuron in neurons if judge not in self.layers or neuron.layer in self.layers[judge]]

    def check(self, judges: Collection[str], layers: Collection[int]) -> None:
        """Check that ``layers`` names layers of the run; warn of judges that it does not have, as after an override.

        Raises:
            HarnessError: naming the first layer that the run does not have.
        """
        for judge, chosen in self.layers.items():
            if judge not in judges:
                logger.warning(
                    "comparisons.layers names the judge %s, which is not in this run (%s)", judge, ", ".join(judges)
                )
            elif missing := sorted(set(chosen) - set(layers)):
                raise HarnessError(
                    f"comparisons.layers.{judge} names layer {missing[0]}, of which this run has no neuron: "
                    "change it or neurons.layers, or remove the restriction with ~comparisons.layers"
                )

    def pairs(self, describers: Iterable[str]) -> list[tuple[str, str]]:
        """Return the pairs of describers that are compared, each pair and the list in alphabetical order."""
        pairs = itertools.combinations(sorted(describers), 2)
        return [pair for pair in pairs if self.baseline is None or self.baseline in pair]
