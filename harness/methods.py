"""What a describer and a judge are: the three classes that a method of your own derives from.

A method is one class and one YAML with its ``_target_``, from any package. The run makes one instance for each entry
of the config, hands it one case at a time, many at once, and turns what it returns or raises into a record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from harness.errors import HarnessError
from harness.llm.client import LLMClient
from harness.records import Channel, Description, EvidenceSize, Exemplar, Neuron, Source, Split, VectorKind, Winner
from harness.subject import Subject


@dataclass(frozen=True)
class Case:
    """One neuron with the evidence that a method may see.

    Attributes:
        neuron: the neuron.
        exemplars: windows of the splits open to the method: explain and select for describers, calibrate and report
            for judges. The two sets share no document.
        subject: the subject model, for methods that read its weights.
        llm: the LLM of the method's role, metered; none if the method asked for no role or the run has none.
        seed: the run's seed; derive from it with :func:`harness.seeds.derive_rng` and the item's identity.
        llms: the LLM of each role that the method asks and the run has, metered.
    """

    neuron: Neuron
    exemplars: tuple[Exemplar, ...]
    subject: Subject
    llm: LLMClient | None
    seed: int
    llms: Mapping[str, LLMClient] = field(default_factory=dict, kw_only=True)

    def windows(self, split: Split, source: Source) -> tuple[Exemplar, ...]:
        """Return the exemplars of one split and source: top by activation, highest first; random in corpus order."""
        return tuple(item for item in self.exemplars if item.split is split and item.source is source)

    def asked(self) -> LLMClient:
        """Return the LLM.

        Raises:
            HarnessError: if the run has none.
        """
        if self.llm is None:
            raise HarnessError("this method needs an LLM, and none is configured for its role")
        return self.llm


@dataclass(frozen=True)
class DescriberCase(Case):
    """What a describer sees of one neuron.

    Attributes:
        channels: the neuron's channels, of every decomposed vector kind, in order of discovery.
        neurons: all neurons of the run, ordered.
        others: for each describer named in ``after``, its descriptions by neuron.
    """

    channels: tuple[Channel, ...] = ()
    neurons: tuple[Neuron, ...] = ()
    others: Mapping[str, Mapping[Neuron, Description]] = field(default_factory=dict)

    def channels_of(self, kind: VectorKind) -> tuple[Channel, ...]:
        """Return the channels of one weight vector, in order of discovery."""
        return tuple(channel for channel in self.channels if channel.kind is kind)


@dataclass(frozen=True)
class JudgeCase(Case):
    """What a judge sees of one neuron: evidence that no describer saw."""


@dataclass(frozen=True)
class Draft:
    """A description as a describer hands it over.

    Attributes:
        text: the description.
        detail: how it was made, if that is worth telling.
        parts: intermediate results worth reading, such as one description per channel.
        evidence: how much it was made from.
    """

    text: str
    detail: str = ""
    parts: tuple[str, ...] = ()
    evidence: EvidenceSize = field(default_factory=EvidenceSize)


@dataclass(frozen=True)
class Judgement:
    """A comparator's verdict and its reason."""

    winner: Winner
    reason: str = ""


@dataclass(frozen=True)
class Grade:
    """A scorer's figure (higher is better), and further figures by name."""

    value: float
    metrics: dict[str, float] = field(default_factory=dict)


class Method:
    """What describers and judges have in common.

    Attributes:
        role: the LLM role it asks, or none; if the run has no LLM in that role, ``case.llm`` is none.
        needs_logprobs: whether it asks its role for log-probabilities of prompts, which not every server gives.
        further_roles: other LLM roles that it asks, found in ``case.llms``, each with whether for log-probabilities.
        llm_required: whether it cannot work without the LLMs of its roles; the run then refuses to start without one.
    """

    role: str | None = None
    needs_logprobs: bool = False
    further_roles: Mapping[str, bool] = {}
    llm_required: bool = True

    @property
    def roles(self) -> dict[str, bool]:
        """All LLM roles that it asks, each with whether for log-probabilities."""
        return {**({self.role: self.needs_logprobs} if self.role is not None else {}), **self.further_roles}

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        """Prove that the LLMs can do what only this method asks of them, before any item is asked; by default nothing.

        It is called once in a run that has work for the method, when its LLMs can be asked, which have by then shown
        that they answer, keep to a schema and, where they must, give log-probabilities. Nothing here is cached.

        Args:
            llms: the LLM of each role that the method asks and the run has.

        Returns:
            What was found, in one line for the log, or nothing.

        Raises:
            HarnessError: if the LLM will not do: one line, the cause and the cure.
        """
        return ""


class Describer(Method, ABC):
    """Says in words what a neuron does.

    Attributes:
        control: true for entries that a real method must beat; marked as such wherever results are shown.
        needs_channels: whether the run must decompose the neurons for it.
        needs_exemplars: whether the run must collect activations for it.
        kinds: the vector kinds whose channels it reads; empty means whichever are decomposed.
        after: names of the describers whose descriptions it reads.
    """

    control: ClassVar[bool] = False
    needs_channels: ClassVar[bool] = False
    needs_exemplars: ClassVar[bool] = False
    kinds: tuple[VectorKind, ...] = ()
    after: tuple[str, ...] = ()
    llm_required: bool = False

    @abstractmethod
    async def describe(self, case: DescriberCase) -> str | Draft:
        """Describe one neuron.

        Raises:
            Unanswered: if the LLM gave no usable answer; any other exception is recorded as a failure as well.
        """


class Comparator(Method, ABC):
    """Says which of two descriptions of a neuron is better.

    Attributes:
        symmetric: whether the order in which the two are shown cannot matter; if false, the run asks in both orders.
    """

    symmetric: ClassVar[bool] = False

    @abstractmethod
    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare two descriptions of one neuron; raises as :meth:`Describer.describe` does."""


class Scorer(Method, ABC):
    """Grades one description on its own."""

    @abstractmethod
    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Grade one description of one neuron; raises as :meth:`Describer.describe` does."""
