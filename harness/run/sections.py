"""Sections of the config that belong to the run itself: neurons, decomposition, diagnostics, comparisons."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as validated_dataclass

from harness.decomposition import DecompositionConfig
from harness.errors import HarnessError
from harness.methods import Mode
from harness.records import Draw, Neuron, Sign, VectorKind
from harness.run.building import validate
from harness.seeds import derive_rng
from harness.validation import DISTINCT, STRICT, Count, CountOrZero, FractionOrZero, OneOrMore, Positive, Whole

if TYPE_CHECKING:
    from harness.subject import Subject

Directions = Literal["float32", "bfloat16", "none"]


@validated_dataclass(frozen=True, config=STRICT)
class GeneralConfig:
    """The options that belong to no section; ``conf/config.yaml`` documents them."""

    name: str
    folder: str
    cache: str
    quiet: bool
    seed: Whole
    mode: Mode
    target_words: Count
    evidence_budget: Count | None


@validated_dataclass(frozen=True, config=STRICT)
class SweepConfig:
    """The section ``sweep`` of the config; ``conf/config.yaml`` documents the option."""

    metric: str | None = None


logger = logging.getLogger(__name__)


@validated_dataclass(frozen=True, config=STRICT)
class NeuronSelection:
    """Which neurons are described, and which of their weight vectors are decomposed.

    The files of ``conf/neurons/`` document the options.
    """

    layers: Annotated[OneOrMore[CountOrZero], DISTINCT] | None
    kinds: Annotated[OneOrMore[VectorKind], Field(min_length=1), DISTINCT] | None
    indices: Annotated[OneOrMore[CountOrZero], DISTINCT] | None = None
    per_layer: Count | None = None
    experts: Annotated[OneOrMore[CountOrZero | Literal["shared"]], DISTINCT] | None = None
    signs: Annotated[OneOrMore[Sign], Field(min_length=1), DISTINCT] = (Sign.POSITIVE,)

    def kinds_of(self, subject: Subject) -> tuple[VectorKind, ...]:
        """Return the vector kinds that are decomposed."""
        return subject.kinds if self.kinds is None else self.kinds

    def select(self, subject: Subject, seed: int) -> list[Neuron]:
        """Return the neurons, ordered.

        Raises:
            HarnessError: if a layer, a neuron or a vector kind does not exist.
        """
        layers = subject.layers if self.layers is None else sorted(self.layers)
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
        if self.per_layer > len(available):
            raise HarnessError(
                f"neurons.per_layer={self.per_layer}, but layer {layer} of {subject.name} has {len(available)} "
                "neurons" + (" in the chosen experts" if self.experts else "")
            )
        drawn = derive_rng(seed, "neurons", layer).choice(len(available), self.per_layer, replace=False)
        return [available[index] for index in sorted(map(int, drawn))]


@validated_dataclass(frozen=True, config=STRICT)
class _Where:
    """The layers and vector kinds of an exception; None: all."""

    layers: OneOrMore[CountOrZero] | None = None
    kinds: OneOrMore[VectorKind] | None = None


@dataclasses.dataclass(frozen=True)
class DecompositionPlan:
    """Decomposition settings, with exceptions for some layers and vector kinds.

    Attributes:
        settings: the fields of DecompositionConfig where no exception applies.
        exceptions: where other settings apply, and those settings, in order.
        seed: the run's seed.
    """

    settings: Mapping[str, Any]
    exceptions: tuple[tuple[_Where, Mapping[str, Any]], ...]
    seed: int

    @classmethod
    def of(cls, section: Any, seed: int) -> DecompositionPlan:
        """Return the plan of the config's section ``decomposition``.

        Raises:
            HarnessError: naming the setting that is unknown or out of range.
        """
        if not isinstance(section, Mapping):
            raise HarnessError(f"decomposition: must be a mapping, not {section!r}")
        overrides = section.get("overrides") or ()
        if not isinstance(overrides, Sequence) or not all(isinstance(item, Mapping) for item in overrides):
            raise HarnessError(
                "decomposition.overrides: must be a list of mappings such as {layers: [8], num_channels: 30}, not "
                f"{overrides!r}"
            )
        settings = {name: value for name, value in section.items() if name != "overrides"}
        _decomposition({**settings, "seed": seed}, "decomposition")
        exceptions = []
        for number, item in enumerate(overrides):
            name = f"decomposition.overrides.{number}"
            given = {key: value for key, value in item.items() if key in {"layers", "kinds"}}
            where = validate(_Where, given, name)
            changes = {key: value for key, value in item.items() if key not in given}
            _decomposition({**_merged(settings, changes), "seed": seed}, name)
            exceptions.append((where, changes))
        return cls(settings, tuple(exceptions), seed)

    def config(self, layer: int, kind: VectorKind) -> DecompositionConfig:
        """Return the settings for one layer and vector kind.

        Raises:
            HarnessError: if exceptions together are not valid.
        """
        settings = self.settings
        for where, changes in self.exceptions:
            if (where.layers is None or layer in where.layers) and (where.kinds is None or kind in where.kinds):
                settings = _merged(settings, changes)
        return _decomposition({**settings, "seed": self.seed}, "decomposition")

    def with_settings(self, changes: Mapping[str, Any]) -> DecompositionPlan:
        """Return the plan with other settings for all layers and vector kinds."""
        return dataclasses.replace(self, exceptions=(*self.exceptions, (_Where(), changes)))


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with changes, those of a solver option by option."""
    merged = dict(settings)
    for name, value in changes.items():
        known = merged.get(name)
        merged[name] = {**known, **value} if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged


def _decomposition(settings: Mapping[str, Any], name: str) -> DecompositionConfig:
    return validate(DecompositionConfig, settings, name)


@validated_dataclass(frozen=True, config=STRICT)
class Storage:
    """What is stored of a decomposition besides its statistics; changes no value in a record.

    Attributes:
        top_tokens: tokens kept from each end of every projection.
        histograms: whether the histogram of every channel's z-scores is kept.
        directions: number format of the channels' directions, or ``none``.
        store: folder of the channels that runs share; None to share nothing.
    """

    top_tokens: Count = 50
    histograms: bool = True
    directions: Directions = "float32"
    store: str | None = None


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
class DrawsConfig:
    """Further descriptions by every describer, which show what a result varies with.

    ``conf/config.yaml`` documents the options.
    """

    repeated: CountOrZero = 0
    resampled: CountOrZero = 0

    @property
    def all(self) -> list[Draw]:
        """The draws, in the order in which they are made."""
        repeated = [Draw(number) for number in range(1, self.repeated + 1)]
        return repeated + [Draw(number, resampled=True) for number in range(1, self.resampled + 1)]


@validated_dataclass(frozen=True, config=STRICT)
class ComparisonConfig:
    """Which comparisons are made.

    ``conf/config.yaml`` documents the options.
    """

    schedule: Literal["all", "baseline"]
    baseline: str | None
    retest: FractionOrZero
    layers: Mapping[str, Annotated[OneOrMore[CountOrZero], Field(min_length=1)]] = dataclasses.field(
        default_factory=dict
    )

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
