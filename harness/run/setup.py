"""The objects of a run, built from its config, and all checks that need neither GPU nor LLM."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.errors import HarnessError
from harness.evidence import Corpus, EvidenceConfig
from harness.llm.client import Backend
from harness.llm.serving import ServingConfig
from harness.methods import Comparator, Describer, Method, Scorer, roles_of
from harness.records import Neuron, Split, VectorKind
from harness.results.noise_floor import read_noise_floor
from harness.results.reference_channels import ReferenceChannel, reference_channels
from harness.run.building import build, build_group, plain, validate
from harness.run.executor import Executor
from harness.run.interventions.config import SteeringConfig
from harness.run.sections import (
    ComparisonConfig,
    DecompositionPlan,
    DiagnosticsConfig,
    DrawsConfig,
    ExplainerCheckConfig,
    GeneralConfig,
    NeuronSelection,
    Storage,
    SweepConfig,
)
from harness.run.trackers import Tracker
from harness.stats.config import StatisticsConfig
from harness.subject import Subject

logger = logging.getLogger(__name__)
_SECTIONS: dict[str, Any] = {
    "serving": ServingConfig,
    "sweep": SweepConfig,
    "storage": Storage,
    "diagnostics": DiagnosticsConfig,
    "statistics": StatisticsConfig,
    "evidence": EvidenceConfig,
    "steering": SteeringConfig,
    "explainer_check": ExplainerCheckConfig,
    "draws": DrawsConfig,
    "comparisons": ComparisonConfig,
}


@dataclass(frozen=True)
class Setup:
    """The objects of a run; ``config`` is its resolved config as plain types."""

    config: dict[str, Any]
    general: GeneralConfig
    subject: Subject
    selection: NeuronSelection
    decomposition: DecompositionPlan
    serving: ServingConfig
    sweep: SweepConfig
    storage: Storage
    diagnostics: DiagnosticsConfig
    reference_channels: tuple[ReferenceChannel, ...]
    statistics: StatisticsConfig
    corpus: Corpus | None
    report_corpus: Corpus | None
    evidence: EvidenceConfig
    steering: SteeringConfig
    describers: dict[str, Describer]
    explainer_check: ExplainerCheckConfig
    draws: DrawsConfig
    comparisons: ComparisonConfig
    comparators: dict[str, Comparator]
    scorers: dict[str, Scorer]
    backends: dict[str, Backend]
    executor: Executor
    tracker: Tracker

    @classmethod
    def of(cls, composed: DictConfig) -> Setup:
        """Instantiate everything that the config names; no weights are loaded.

        Raises:
            HarnessError: naming the entry that cannot be built.
        """
        config = plain(composed)
        options = {name: config.get(name) for name in GeneralConfig.__dataclass_fields__}
        general = validate(GeneralConfig, options, "")
        selection = validate(NeuronSelection, config["neurons"], "neurons")  # first: describers read from it
        given = {**config, "evidence": config["evidence"]}
        if isinstance(config["evidence"], dict):
            given["evidence"] = {key: value for key, value in config["evidence"].items() if key != "report_corpus"}
        sections = {name: validate(kind, given[name], name) for name, kind in _SECTIONS.items()}
        subject = build(config["subject"], "subject", Subject)  # then: others read from it
        judges = build_group(config, "judges", Comparator | Scorer)
        describers = build_group(config, "describers", Describer)
        try:
            references = reference_channels(config["reference_channels"] or ())
        except ValueError as error:
            raise HarnessError(str(error)) from error
        return cls(
            config=config,
            general=general,
            subject=subject,
            selection=selection,
            decomposition=DecompositionPlan.of(config["decomposition"], general.seed),
            reference_channels=references,
            corpus=_corpus(config.get("corpus"), "corpus"),
            report_corpus=_corpus(config["evidence"].get("report_corpus"), "evidence.report_corpus"),
            describers=describers,
            comparators={name: judge for name, judge in judges.items() if isinstance(judge, Comparator)},
            scorers={name: judge for name, judge in judges.items() if isinstance(judge, Scorer)},
            backends=build_group(config, "llm", Backend),
            executor=build(config["executor"], "executor", Executor),
            tracker=build(config["tracking"], "tracking", Tracker),
            **sections,
        )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.general.folder)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.general.seed

    @cached_property
    def neurons(self) -> list[Neuron]:
        """The neurons that are decomposed, without their signs, ordered."""
        return self.selection.select(self.subject, self.seed)

    @cached_property
    def described(self) -> list[Neuron]:
        """The neurons that are described and judged, one for each sign, ordered."""
        return sorted({neuron.with_sign(sign) for neuron in self.neurons for sign in self.selection.signs})

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """The vector kinds that are decomposed."""
        return self.selection.kinds_of(self.subject)

    @property
    def compares(self) -> bool:
        """Whether describers are compared; a run without describers and judges only decomposes."""
        return bool(self.describers or self.comparators or self.scorers)

    @property
    def judges(self) -> dict[str, Comparator | Scorer]:
        """All judges by name, without those that are left out."""
        able = {name: scorer for name, scorer in self.scorers.items() if name not in self.left_out}
        return {**self.comparators, **able}

    @property
    def methods(self) -> dict[str, Method]:
        """All describers and judges by name, without those that are left out."""
        return {**self.describers, **self.judges}

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Scorers that cannot work with this subject, or whose LLM is not configured, each with the reason."""
        reasons = {name: self._obstacle(scorer) for name, scorer in self.scorers.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def _obstacle(self, method: Method) -> str | None:
        """Return why a method cannot work in this run, or None."""
        for part in method.walk:
            absent = [role for role in part.roles if role not in self.backends]
            if absent and part.llm_required:
                return (
                    f"needs an LLM as {absent[0]}, and none is configured: add llm@llm.{absent[0]}=vllm "
                    f"llm.{absent[0]}.model=..."
                )
            if reason := part.unavailable(self.subject):
                return reason
        return None

    def models_of(self, method: Method) -> set[str]:
        """Return the names of the LLMs that write a describer's texts, or that a judge uses."""
        roles = set(method.roles)
        if isinstance(method, Describer):  # without the scorers in it, which choose among its texts
            roles -= roles_of(one for one in method.walk if not isinstance(one, Describer)).keys()
            roles |= {one.role for one in method.walk if isinstance(one, Describer) and one.role is not None}
        return {self.backends[role].model for role in roles if role in self.backends}

    @property
    def effect_splits(self) -> list[Split]:
        """The splits over whose text effects are measured: one for describers, one for judges."""
        describers, judges = self.describers.values(), self.judges.values()
        splits = [Split.EXPLAIN] * any(describer.needs_effects for describer in describers)
        return splits + [Split.REPORT] * any(judge.needs_effects for judge in judges)

    def changed(self, split: Split) -> list[Neuron]:
        """Return the neurons whose effects are measured over text of a split, ordered."""
        if split is Split.EXPLAIN:
            return self.described
        judged = (
            self.comparisons.judged(name, self.described) for name, one in self.judges.items() if one.needs_effects
        )
        return sorted(set(itertools.chain(*judged)))

    @property
    def needs_steered(self) -> bool:
        """Whether texts are generated under interventions."""
        return any(judge.needs_steered for judge in self.judges.values())

    @cached_property
    def beginning(self) -> list[int]:
        """The special tokens that the subject's tokenizer puts before a text."""
        from harness.evidence import special_affixes  # imports PyTorch

        return special_affixes(self.subject.tokenizer)[0]

    @property
    def controls(self) -> list[str]:
        """Names of the describers that are controls."""
        return [name for name, describer in self.describers.items() if describer.control]

    def ordered_describers(self) -> list[str]:
        """Return the describers in an order in which each comes after those whose descriptions it reads.

        Raises:
            HarnessError: if a describer reads from one that is not in the run, or two from each other.
        """
        ordered: list[str] = []
        while waiting := [name for name in self.describers if name not in ordered]:
            ready = [name for name in waiting if set(self.describers[name].after) <= set(ordered)]
            if not ready:
                name = waiting[0]
                if missing := [other for other in self.describers[name].after if other not in self.describers]:
                    raise HarnessError(
                        f"describers.{name} needs the descriptions of {missing[0]!r}, which is not in this run "
                        f"({', '.join(self.describers)}): add it, or change what {name} reads"
                    )
                raise HarnessError(f"the describers {', '.join(waiting)} wait for each other's descriptions")
            ordered += ready
        return ordered

    def check(self) -> None:
        """Check all that can be checked from the files and the config alone.

        Raises:
            HarnessError: one line with the cause and the cure.
        """
        unpriced = [role for role, one in self.backends.items() if one.price is None and one.server is None]
        if self.serving.max_cost is not None and unpriced:
            raise HarnessError(
                "serving.max_cost needs the price of every LLM that is not managed here: set "
                f"llm.{unpriced[0]}.price.prompt and llm.{unpriced[0]}.price.completion"
            )
        if self.statistics.noise_floor is not None:
            read_noise_floor(self.statistics.noise_floor)
        if self.compares:
            self._check_contestants()
            self._check_evidence()
        assert self.neurons
        assert self.executor.device
        for reference in self.reference_channels:
            if reference.neuron not in self.neurons or reference.kind not in self.kinds:
                raise HarnessError(
                    f"reference_channels names the {reference.kind} vector of {reference.neuron}, which this run does "
                    "not decompose: remove it, or add it to neurons"
                )
        for layer in {neuron.layer for neuron in self.neurons}:
            for kind in self.kinds:
                self.decomposition.config(layer, kind)

    def _check_contestants(self) -> None:
        """Check that there are describers and judges to compare, and that each of them can work."""
        alone = "to decompose only, leave out describers and judges: experiment=decompose_model"
        if len(self.describers) < 2:
            raise HarnessError(f"at least two describers are needed: describers=[rotate,maxact]; {alone}")
        if not self.comparators and not self.scorers:
            raise HarnessError(f"no judge is chosen (judges=[embedding_pairwise]); {alone}")
        if self.corpus is None:
            raise HarnessError("no text for describers and judges is chosen (corpus=installed_docs)")
        from harness.subject import check_signs  # imports PyTorch

        check_signs(self.subject, self.described)
        self.ordered_describers()
        for name, method in {**self.describers, **self.comparators}.items():
            if reason := self._obstacle(method):
                raise HarnessError(f"{name} {reason}, or leave {name} out")
        for name, reason in self.left_out.items():
            if not self.judges:
                raise HarnessError(f"no judge is left for this run: {name} {reason}")
            logger.warning("%s is left out of this run: it %s", name, reason)
        for name, judge in self.judges.items():
            self._check_servers(name, judge)
        writers = {role for describer in self.describers.values() for role in describer.roles} & self.backends.keys()
        greedy = sorted(role for role in writers if self.backends[role].sampling.temperature == 0)
        if self.draws.repeated and greedy:
            logger.warning(
                "draws.repeated: the temperature of the %s is 0, so that its further descriptions hardly differ: set "
                "llm.%s.sampling.temperature=0.7",
                *(greedy[0], greedy[0]),
            )

    def _check_servers(self, name: str, method: Method) -> None:
        """Check that the servers of a judge can run at the same time: otherwise each would stop the other often.

        A describer has few items, and all of them use one server before the other starts.
        """
        servers = {self.backends[role].server for role in method.roles if role in self.backends} - {None}
        if len(servers) > self.serving.max_servers:
            raise HarnessError(
                f"{name} alternates between {' and '.join(method.roles)}, which need {len(servers)} servers at the "
                f"same time: set serving.max_servers={len(servers)}, or give these roles the same model"
            )

    def _check_evidence(self) -> None:
        """Check that describers and judges get what they need, in the way they check it themselves."""
        for name, describer in self.describers.items():
            missing = [kind for kind in describer.kinds if kind not in self.kinds]
            if (describer.needs_channels or describer.needs_random_channels) and missing:
                raise HarnessError(
                    f"describers.{name} reads {missing[0]!r} channels, but only {', '.join(self.kinds)} vectors are "
                    f"decomposed: add it to neurons.kinds, or remove it from describers.{name}.kinds"
                )
        baseline = self.comparisons.baseline
        if baseline is not None and baseline not in self.describers:
            raise HarnessError(
                f"comparisons.baseline={baseline} is not in this run; choose from {', '.join(self.describers)}"
            )
        self.comparisons.check([*self.comparators, *self.scorers], {neuron.layer for neuron in self.neurons})
        for name, judge in self.judges.items():
            with _naming(f"judges.{name}"):
                if isinstance(judge, Comparator):
                    judge.check(self.described, list(self.describers))
                else:
                    judge.check(self.described)
        self.steering.check_lengths(self.subject, effects=bool(self.effect_splits), texts=self.needs_steered)
        parts = [part for method in self.methods.values() for part in method.walk]
        encoders = [getattr(part, "encoder", None) for part in parts]
        for encoder in {id(encoder): encoder for encoder in encoders if encoder is not None}.values():
            encoder.check()
        for name, describer in self.describers.items():
            with _naming(f"describers.{name}"):
                for part in describer.walk:
                    if isinstance(part, Describer):
                        part.check(self.described, self.subject)


def _corpus(entry: Any, name: str) -> Corpus | None:
    found: Corpus | None = None if entry is None else build(entry, name, Corpus)
    return found


@contextmanager
def _naming(entry: str) -> Iterator[None]:
    """Put the name of a config entry before the message of a HarnessError."""
    try:
        yield
    except HarnessError as error:
        raise HarnessError(f"{entry}: {error}") from error
