"""From a config to the objects of a run, and everything that can be found wrong with it before time is spent."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.checks import require, require_count
from harness.decomposition import AdamWConfig, DecompositionConfig, GeodesicConfig
from harness.errors import HarnessError
from harness.evidence import Corpus, EvidenceConfig, special_affixes
from harness.llm.client import Backend
from harness.methods import Comparator, Describer, Method, Scorer
from harness.records import Neuron, Sign, Split, VectorKind
from harness.results.reference_channels import ReferenceChannel, reference_channels
from harness.run.executor import Executor
from harness.run.interventions.config import SteeringConfig
from harness.run.schedule import ComparisonConfig
from harness.run.trackers import Tracker
from harness.run.worker import Storage
from harness.seeds import derive_rng
from harness.stats.config import StatisticsConfig
from harness.subject import Subject, check_signs
from harness.validation import explain

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class NeuronSelection:
    """Which neurons are described, and which of their weight vectors are decomposed.

    Attributes:
        layers: layers, from 0; none for all.
        kinds: vector kinds: ``gate``, ``in``, ``out``; none for all that the model's neurons have.
        experts: in layers that mix experts, only those of these experts (``shared``: the one that all tokens share);
            none for those of all. Not for layers that mix none.
        signs: which of a neuron's activations are described, each as a neuron of its own: ``positive``, ``negative``.
        indices: indices inside each layer, or inside each expert; none to draw them.
        per_layer: how many are drawn from each layer, over all its experts, by the seed; none takes all.
    """

    layers: Sequence[int] | None
    kinds: Sequence[str] | None
    indices: Sequence[int] | None = None
    per_layer: int | None = None
    experts: Sequence[int | str] | None = None
    signs: Sequence[str] = (Sign.POSITIVE,)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds or () if kind not in list(VectorKind)]
        if unknown or self.kinds == []:
            given = f"{unknown[0]!r} is no vector kind" if unknown else "no vector kind is chosen"
            raise HarnessError(f"{given}; choose from {', '.join(VectorKind)} (neurons.kinds)")
        if not self.signs or not set(self.signs) <= set(Sign):
            raise HarnessError(f"choose one or both of {', '.join(Sign)} (neurons.signs)")

    def kinds_of(self, subject: Subject) -> tuple[VectorKind, ...]:
        """Return the vector kinds that are decomposed."""
        return subject.kinds if self.kinds is None else tuple(VectorKind(kind) for kind in self.kinds)

    def select(self, subject: Subject, seed: int) -> list[Neuron]:
        """Return the neurons, ordered.

        Raises:
            HarnessError: if a layer, a neuron or a vector kind does not exist.
        """
        layers = range(subject.num_layers) if self.layers is None else sorted(set(self.layers))
        if not layers:
            raise HarnessError("no layer is chosen (neurons.layers)")
        kinds = self.kinds_of(subject)
        if self.indices is not None and self.per_layer is not None:
            raise HarnessError("neurons.indices and neurons.per_layer are both set; set one of them to null")
        neurons: list[Neuron] = []
        for layer in layers:
            subject.check(layer, [], kinds)
            there = subject.neurons(layer, self.experts)
            if self.indices is not None:
                chosen = [
                    Neuron(layer, index, expert) for expert in {n.expert for n in there} for index in self.indices
                ]
                subject.check(layer, [n.index for n in chosen], [], [n.expert for n in chosen])
                neurons += sorted(set(chosen))
            elif self.per_layer is not None:
                if not 1 <= self.per_layer <= len(there):
                    raise HarnessError(
                        f"neurons.per_layer={self.per_layer}, but layer {layer} of {subject.name} has {len(there)} "
                        "neurons" + (" in the chosen experts" if self.experts else "")
                    )
                draw = derive_rng(seed, "neurons", layer).choice(len(there), self.per_layer, replace=False)
                neurons += [there[place] for place in sorted(map(int, draw))]
            else:
                neurons += there
        if not neurons:
            raise HarnessError("no neuron is chosen (neurons.indices)")
        return neurons


@dataclass(frozen=True)
class DecompositionPlan:
    """Decomposition settings, with exceptions for some layers and vector kinds.

    Attributes:
        settings: the fields of DecompositionConfig where no exception holds.
        overrides: exceptions, tried in order: ``layers`` and ``kinds`` (none: all) say where the other keys hold.
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
                    if name in {"layers", "kinds"}:
                        continue
                    if isinstance(value, Mapping):
                        settings[name] = {**settings.get(name, {}), **value}
                    else:
                        settings[name] = value
        try:
            adamw, geodesic = AdamWConfig(**settings.pop("adamw", {})), GeodesicConfig(**settings.pop("geodesic", {}))
            return DecompositionConfig(**settings, seed=self.seed, adamw=adamw, geodesic=geodesic)
        except (TypeError, ValueError) as error:
            raise HarnessError(f"decomposition: {error}") from error


@dataclass(frozen=True)
class DiagnosticsConfig:
    """What is decomposed besides the run's vectors, to judge the decomposition.

    Attributes:
        sample: vectors of each layer and kind that are decomposed again; 0 for none.
        restarts: from how many other starts each.
        jitter: how far from the vector another start of the geodesic solver lies: the length of a random tangent that
            is added to the unit vector.
        top_tokens: tokens of two channels that are compared.
        random_vectors: random vectors decomposed for each layer and kind; 0 for none.
        random: ``covariance`` (mean and covariance of the layer's vectors of that kind) or ``isotropic``.
        random_channels: how many channels of each are sought, at most as many as of the run's vectors.
        ablated: vectors of each layer and kind whose channels are taken out of them; 0 for none.

    Raises:
        ValueError: if a value is out of range.
    """

    sample: int
    restarts: int
    jitter: float
    top_tokens: int
    random_vectors: int
    random: Literal["covariance", "isotropic"]
    random_channels: int
    ablated: int

    def __post_init__(self) -> None:
        least = {"sample": 0, "restarts": 1, "top_tokens": 1, "random_vectors": 0, "random_channels": 1, "ablated": 0}
        for name, bound in least.items():
            require_count(name, getattr(self, name), bound)
        require(0 < self.jitter < math.inf, "jitter", self.jitter, "finite and positive")
        require(self.random in ("covariance", "isotropic"), "random", self.random, "'covariance' or 'isotropic'")


@dataclass(frozen=True)
class Setup:
    """The objects of a run.

    Attributes:
        config: the resolved config as plain types.
        folder: the run folder's path.
        seed: the run's seed.
    """

    config: dict[str, Any]
    folder: Path
    seed: int
    subject: Subject
    selection: NeuronSelection
    decomposition: DecompositionPlan
    storage: Storage
    diagnostics: DiagnosticsConfig
    reference_channels: tuple[ReferenceChannel, ...]
    statistics: StatisticsConfig
    corpus: Corpus | None
    evidence: EvidenceConfig
    steering: SteeringConfig
    describers: dict[str, Describer]
    comparisons: ComparisonConfig
    comparators: dict[str, Comparator]
    scorers: dict[str, Scorer]
    backends: dict[str, Backend]
    executor: Executor
    tracker: Tracker

    @classmethod
    def of(cls, composed: DictConfig) -> Setup:
        """Instantiate everything the config names; nothing heavy is loaded.

        Raises:
            HarnessError: naming the entry that cannot be built.
        """
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            verb = "has" if len(missing) == 1 else "have"
            raise HarnessError(
                f"{', '.join(missing)} {verb} no value and must: add {' '.join(f'{name}=...' for name in missing)}; "
                "--cfg job with the same options says what is meant"
            )
        config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        selection = _filled(NeuronSelection, config, "neurons")  # first: describers read from it
        judges = _built_all(config, "judges", Comparator | Scorer)
        describers = _built_all(config, "describers", Describer)
        settings = {name: value for name, value in config["decomposition"].items() if name != "overrides"}
        return cls(
            config=config,
            folder=Path(str(config["folder"])),
            seed=config["seed"],
            subject=_built(config, "subject", Subject),
            selection=selection,
            decomposition=DecompositionPlan(settings, config["decomposition"]["overrides"], config["seed"]),
            storage=_filled(Storage, config, "storage"),
            diagnostics=_filled(DiagnosticsConfig, config, "diagnostics"),
            reference_channels=_reference_channels(config),
            statistics=_filled(StatisticsConfig, config, "statistics"),
            corpus=_built(config, "corpus", Corpus) if config.get("corpus") else None,
            evidence=_filled(EvidenceConfig, config, "evidence"),
            steering=_filled(SteeringConfig, config, "steering"),
            describers=describers,
            comparisons=_filled(ComparisonConfig, config, "comparisons"),
            comparators={name: judge for name, judge in judges.items() if isinstance(judge, Comparator)},
            scorers={name: judge for name, judge in judges.items() if isinstance(judge, Scorer)},
            backends=_built_all(config, "llm", Backend),
            executor=_built(config, "executor", Executor),
            tracker=_built(config, "tracking", Tracker),
        )

    @cached_property
    def neurons(self) -> list[Neuron]:
        """The neurons of the run as they are decomposed, ordered."""
        return self.selection.select(self.subject, self.seed)

    @cached_property
    def described(self) -> list[Neuron]:
        """The neurons of the run as they are described and judged, each sign for itself, ordered."""
        return sorted({neuron.with_sign(Sign(sign)) for neuron in self.neurons for sign in self.selection.signs})

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """The vector kinds that are decomposed."""
        return self.selection.kinds_of(self.subject)

    @property
    def compares(self) -> bool:
        """Whether describers are compared; a run without describers and judges decomposes, and is done."""
        return bool(self.describers or self.comparators or self.scorers)

    @property
    def judges(self) -> dict[str, Comparator | Scorer]:
        """All judges by name, those that are left out aside."""
        able = {name: scorer for name, scorer in self.scorers.items() if name not in self.left_out}
        return {**self.comparators, **able}

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Scorers that can tell nothing of this subject, or have no LLM to ask, each with the reason."""
        reasons = {name: self._hindrance(scorer) for name, scorer in self.scorers.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def _hindrance(self, method: Method) -> str | None:
        """Say why a method cannot work in this run, if it cannot."""
        for one in method.walk:
            absent = [role for role in one.roles if role not in self.backends]
            if absent and one.llm_required:
                return (
                    f"needs an LLM as {absent[0]}, and none is configured: add llm@llm.{absent[0]}=vllm "
                    f"llm.{absent[0]}.model=..."
                )
            reason = one.unavailable(self.subject)
            if reason:
                return reason
        return None

    @property
    def effect_splits(self) -> list[Split]:
        """The splits over whose text effects are measured: one that describers may see, one that judges may see."""
        needed = {
            Split.EXPLAIN: any(describer.needs_effects for describer in self.describers.values()),
            Split.REPORT: any(judge.needs_effects for judge in self.judges.values()),
        }
        return [split for split, wanted in needed.items() if wanted]

    @property
    def needs_steered(self) -> bool:
        """Whether texts are generated under interventions."""
        return any(judge.needs_steered for judge in self.judges.values())

    @cached_property
    def beginning(self) -> list[int]:
        """The special tokens that the subject's tokenizer puts before a text."""
        return special_affixes(self.subject.tokenizer)[0]

    @property
    def controls(self) -> list[str]:
        """Names of the describers that are controls."""
        return [name for name, describer in self.describers.items() if describer.control]

    def ordered_describers(self) -> list[str]:
        """Return the describers so that each stands behind those whose descriptions it reads.

        Raises:
            HarnessError: if one reads from a describer that is not there, or two from each other.
        """
        ordered: list[str] = []
        waiting = dict(self.describers)
        while waiting:
            ready = [name for name, describer in waiting.items() if set(describer.after) <= set(ordered)]
            if not ready:
                name, describer = next(iter(waiting.items()))
                missing = [other for other in describer.after if other not in self.describers]
                if missing:
                    raise HarnessError(
                        f"describers.{name} needs the descriptions of {missing[0]!r}, which is not in this run "
                        f"({', '.join(self.describers)}): add it, or change what {name} reads"
                    )
                raise HarnessError(f"the describers {', '.join(waiting)} wait for each other's descriptions")
            ordered += ready
            for name in ready:
                del waiting[name]
        return ordered

    def check(self) -> None:
        """Find what can be found wrong with the files and the config alone.

        Raises:
            HarnessError: one line, the cause and the cure.
        """
        if self.compares:
            self._check_comparison()
        assert self.neurons
        for one in self.reference_channels:
            if one.neuron not in self.neurons or one.kind not in self.kinds:
                raise HarnessError(
                    f"reference_channels names the {one.kind} vector of {one.neuron}, which this run does not "
                    "decompose: take it out, or add it to neurons"
                )
        for layer in {neuron.layer for neuron in self.neurons}:
            for kind in self.kinds:
                self.decomposition.config(layer, kind)

    def _check_comparison(self) -> None:
        alone = "to decompose and no more, leave out describers and judges: experiment=decompose_model"
        if len(self.describers) < 2:
            raise HarnessError(
                f"at least two describers are needed to compare any (describers=[rotate,maxact]); {alone}"
            )
        if not self.comparators and not self.scorers:
            raise HarnessError(f"no judge is chosen (judges=[embedding_pairwise]); {alone}")
        if self.corpus is None:
            raise HarnessError("no text is chosen that describers and judges could see (corpus=installed_docs)")
        check_signs(self.subject, self.described)
        self.ordered_describers()
        for name, method in {**self.describers, **self.comparators}.items():
            reason = self._hindrance(method)
            if reason:
                raise HarnessError(f"{name} {reason}, or leave {name} out")
        for name, reason in self.left_out.items():
            if not self.judges:
                raise HarnessError(f"no judge is left for this run: {name} {reason}")
            logger.warning("%s is left out of this run: it %s", name, reason)
        for name, method in {**self.describers, **self.judges}.items():
            self._check_servers(name, method)
        for name, describer in self.describers.items():
            missing = [kind for kind in describer.kinds if kind not in self.kinds]
            if describer.needs_channels and missing:
                raise HarnessError(
                    f"describers.{name} reads {missing[0]!r} channels, but only {', '.join(self.kinds)} vectors are "
                    f"decomposed: add it to neurons.kinds, or take it out of describers.{name}.kinds"
                )
        baseline = self.comparisons.baseline
        if baseline is not None and baseline not in self.describers:
            raise HarnessError(
                f"comparisons.baseline={baseline} is not in this run; choose from {', '.join(self.describers)}"
            )
        for name, judge in self.judges.items():
            try:
                if isinstance(judge, Comparator):
                    judge.check(self.described, list(self.describers))
                else:
                    judge.check(self.described)
            except HarnessError as error:
                raise HarnessError(f"judges.{name}: {error}") from error
        self.steering.check_lengths(self.subject, effects=bool(self.effect_splits), texts=self.needs_steered)
        budget = self.config["evidence_budget"]
        if budget is not None and (not isinstance(budget, int) or budget < 1):
            raise HarnessError(f"evidence_budget is {budget!r}; it must be a number of tokens, or null for no limit")
        methods = [one for method in (*self.describers.values(), *self.judges.values()) for one in method.walk]
        encoders = {id(one.encoder): one.encoder for one in methods if hasattr(one, "encoder")}
        for encoder in encoders.values():
            encoder.check()
        for name, describer in self.describers.items():
            for one in describer.walk:
                if isinstance(one, Describer):
                    try:
                        one.check(self.described, self.subject)
                    except HarnessError as error:
                        raise HarnessError(f"describers.{name}: {error}") from error

    def _check_servers(self, name: str, method: Method) -> None:
        """Check that the servers a method asks by turns can run side by side: else each would stop the other."""
        servers = {self.backends[role].server for role in method.roles if role in self.backends} - {None}
        if len(servers) > self.config["serving"]["max_servers"]:
            raise HarnessError(
                f"{name} asks {' and '.join(method.roles)} by turns, which need {len(servers)} servers at the same "
                f"time: set serving.max_servers={len(servers)}, or give these roles the same model"
            )


def _reference_channels(config: Mapping[str, Any]) -> tuple[ReferenceChannel, ...]:
    try:
        return reference_channels(config["reference_channels"] or ())
    except ValueError as error:
        raise HarnessError(str(error)) from error


def _filled(kind: type[T], config: Mapping[str, Any], name: str) -> T:
    """Make a dataclass of a config section."""
    try:
        return kind(**config[name])
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise HarnessError(explain(error, name).replace(f"{kind.__name__}.__init__() ", "")) from error


def _built_all(config: Mapping[str, Any], group: str, kind: Any) -> dict[str, Any]:
    entries = (config.get(group) or {}).items()
    return {name: _built(entry, f"{group}.{name}", kind, whole=True) for name, entry in entries if entry}


def _built(config: Mapping[str, Any], name: str, kind: Any, *, whole: bool = False) -> Any:
    entry = config if whole else config.get(name)
    if not isinstance(entry, Mapping) or "_target_" not in entry:
        raise HarnessError(f"the config entry {name} has no _target_ that says which class to build")
    try:
        # "all": mappings and lists arrive as plain Python, which is what a method's author expects.
        built = instantiate(entry, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise HarnessError(explain(cause, name)) from error
    if not isinstance(built, kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise HarnessError(f"{name}: {entry['_target_']} is no {wanted}")
    return built
