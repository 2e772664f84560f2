"""What a describer and a judge are: the three classes that a method of your own derives from.

A method is one class and one YAML with its ``_target_``, from any package. The run makes one instance for each entry
of the config, hands it one case at a time, many at once, and turns what it returns or raises into a record.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from harness.errors import HarnessError
from harness.evidence import ReadText, TextReader
from harness.llm.client import LLMClient, Unanswered
from harness.records import (
    Activity,
    Channel,
    Corruption,
    Description,
    Effect,
    EvidenceSize,
    Exemplar,
    Neuron,
    Side,
    Source,
    Split,
    Status,
    SteeredText,
    VectorKind,
    Vote,
    Winner,
)
from harness.subject import Subject, lacks_head

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        effects: what clamping the neuron does to the next token, one for each value, if the method needs effects;
            averaged over text of the explain split for describers, of the report split for judges. None at all if the
            values are told in peaks and the neuron is never active.
        activity: how often and how strongly the neuron is active, in each of the splits open to the method.
        reader: runs the subject on new text.
    """

    neuron: Neuron
    exemplars: tuple[Exemplar, ...]
    subject: Subject
    llm: LLMClient | None
    seed: int
    llms: Mapping[str, LLMClient] = field(default_factory=dict, kw_only=True)
    effects: tuple[Effect, ...] = field(default=(), kw_only=True)
    activity: Mapping[Split, Activity] = field(default_factory=dict, kw_only=True)
    reader: TextReader | None = field(default=None, kw_only=True)

    def windows(self, split: Split, source: Source) -> tuple[Exemplar, ...]:
        """Return the exemplars of one split and source: random ones in corpus order, others highest first."""
        return tuple(item for item in self.exemplars if item.split is split and item.source is source)

    def require_llm(self) -> LLMClient:
        """Return the LLM.

        Raises:
            HarnessError: if the run has none.
        """
        if self.llm is None:
            raise HarnessError("this method needs an LLM, and none is configured for its role")
        return self.llm

    async def read(self, texts: Sequence[str]) -> list[ReadText]:
        """Return new texts with the neuron's activations on them.

        Raises:
            HarnessError: if the run has nothing to read them with, or the subject cannot be run.
        """
        if self.reader is None:
            raise HarnessError("this method runs the subject on new text, and there is nothing to run it with")
        return await self.reader.read(self.neuron, texts)


@dataclass(frozen=True)
class DescriberCase(Case):
    """What a describer sees of one neuron.

    Attributes:
        channels: the neuron's channels, of every decomposed vector kind, in order of discovery.
        neurons: all neurons of the run, ordered.
        others: for each describer named in ``after``, its descriptions by neuron.
        budget: most tokens of evidence, of text or of the vocabulary, that the describer may use; none for no limit.
    """

    channels: tuple[Channel, ...] = ()
    neurons: tuple[Neuron, ...] = ()
    others: Mapping[str, Mapping[Neuron, Description]] = field(default_factory=dict)
    budget: int | None = None

    def channels_of(self, kind: VectorKind) -> tuple[Channel, ...]:
        """Return the channels of one weight vector, in order of discovery."""
        return tuple(channel for channel in self.channels if channel.kind is kind)


@dataclass(frozen=True)
class JudgeCase(Case):
    """What a judge sees of one neuron: evidence that no describer saw.

    Attributes:
        contestants: names of the describers whose descriptions are judged, in the order in which they are shown: for
            judges that look an answer up, such as a file of human labels. They belong in no prompt.
        steered: texts generated under interventions on each neuron of the run, and beside them without, if the judge
            needs them. They start from prompts of the config, not of the corpus, and no describer sees them.
    """

    contestants: tuple[str, ...] = ()
    steered: Mapping[Neuron, tuple[SteeredText, ...]] = field(default_factory=dict, kw_only=True)


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

    @classmethod
    def of(cls, made: str | Draft) -> Draft:
        """Return what a describer returned as a draft."""
        return cls(made) if isinstance(made, str) else made


@dataclass(frozen=True)
class Judgement:
    """A comparator's verdict and its reason.

    Attributes:
        winner: the verdict; none with a status that is not ok, for a comparator that has votes to tell all the same.
        reason: why.
        preference: probability that it prefers the first, a tie as half, given that it says one of the verdicts.
        mass: probability that it says one of the verdicts at all.
        votes: the members' verdicts, if it is a panel.
        status: how it ended.
    """

    winner: Winner | None
    reason: str = ""
    preference: float | None = None
    mass: float | None = None
    votes: tuple[Vote, ...] = ()
    status: Status = Status.OK


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
        extra_roles: other LLM roles that it asks, found in ``case.llms``, each with whether for log-probabilities.
        llm_required: whether it cannot work without the LLMs of its roles; the run then refuses to start without one,
            or, if it is a scorer, leaves it out.
        is_human: whether its answers are what people said who read the descriptions.
        needs_effects: whether the run must measure what clamping the neurons does to the next token for it.
        needs_steered: whether the run must generate steered texts for it; only judges get them.
        inner: the methods that it calls in its turn; it asks their roles as ``extra_roles``. What the run checks of
            a method, and keeps of its prompts, it checks and keeps of these as well.
    """

    needs_effects: bool = False
    needs_steered: bool = False
    role: str | None = None
    needs_logprobs: bool = False
    extra_roles: Mapping[str, bool] = {}
    llm_required: bool = True
    is_human: bool = False
    inner: tuple[Method, ...] = ()

    @property
    def roles(self) -> dict[str, bool]:
        """All LLM roles that it asks, each with whether for log-probabilities."""
        return {**({self.role: self.needs_logprobs} if self.role is not None else {}), **self.extra_roles}

    @property
    def walk(self) -> Iterator[Method]:
        """It, and all methods inside it, however deep."""
        yield self
        for method in self.inner:
            yield from method.walk

    @property
    def inputs(self) -> str | None:
        """What its answers depend on beside its options and prompts, such as a hash of a file that it reads."""
        return None

    def unavailable(self, subject: Subject) -> str | None:
        """Say why it can tell nothing of a subject, such as one that writes no text; none if it can.

        A describer or comparator of which this is true ends the run before it starts. A scorer is left out of it, and
        that is said once: it is no failure of the descriptions, and no zero.
        """
        return lacks_head(subject) if self.needs_effects or self.needs_steered else None

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        """Prove that the LLMs can do what only this method asks of them, before any item is asked.

        By default what the methods inside it prove, each with its own roles.

        It is called once in a run that has work for the method, when its LLMs can be asked, which have by then shown
        that they answer, keep to a schema and, where they must, give log-probabilities. Nothing here is cached.

        Args:
            llms: the LLM of each role that the method asks and the run has.

        Returns:
            What was found, in one line for the log, or nothing.

        Raises:
            HarnessError: if the LLM will not do: one line, the cause and the cure.
        """
        found = [
            await one.preflight({role: llms[role] for role in one.roles if role in llms})
            for one in self.inner
            if any(role in llms for role in one.roles)
        ]
        return "; ".join(filter(None, found))


class Describer(Method, ABC):
    """Says in words what a neuron does.

    Attributes:
        control: true for entries that a real method must beat; marked as such wherever results are shown.
        needs_channels: whether the run must decompose the neurons for it.
        needs_exemplars: whether the run must collect activations for it.
        kinds: the vector kinds whose channels it reads; empty means whichever are decomposed.
        after: names of the describers whose descriptions it reads.
        extractive: whether its descriptions are the evidence's own tokens where it asks no LLM and reads no others.
        corruption: what is known of its descriptions before anyone judges them, if it is there to judge the judges.
    """

    control: ClassVar[bool] = False
    needs_channels: bool = False
    needs_exemplars: bool = False
    kinds: tuple[VectorKind, ...] = ()
    after: tuple[str, ...] = ()
    extractive: bool = True
    corruption: Corruption | None = None
    llm_required: bool = False

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Find what can be found wrong before any time is spent, knowing which neurons of whom are to be described.

        Raises:
            HarnessError: one line, the cause and the cure.
        """

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
        side: which side of the neuron it is shown. Verdicts of the two sides are reported apart as well as together,
            for evidence of one side favours the describers that use the same side.
    """

    symmetric: bool = False
    side: Side = Side.INPUT

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Find what can be found wrong before any time is spent, knowing what is to be compared.

        Raises:
            HarnessError: one line, the cause and the cure.
        """

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Tell whether it has anything to say of a pair of describers; the run does not ask it of the others."""
        return True

    @abstractmethod
    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare two descriptions of one neuron; raises as :meth:`Describer.describe` does."""


class Scorer(Method, ABC):
    """Grades one description on its own."""

    def check(self, neurons: Sequence[Neuron]) -> None:
        """Find what can be found wrong before any time is spent, knowing whose descriptions are to be graded.

        Raises:
            HarnessError: one line, the cause and the cure.
        """

    @abstractmethod
    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Grade one description of one neuron; raises as :meth:`Describer.describe` does."""


def roles_of(methods: Iterable[Method]) -> dict[str, bool]:
    """Return the LLM roles that any of the methods uses, each with whether it needs log-probabilities."""
    roles: dict[str, bool] = {}
    for method in methods:
        for role, needs_logprobs in method.roles.items():
            roles[role] = roles.get(role, False) or needs_logprobs
    return roles


async def outcome(work: Awaitable[T]) -> tuple[T | None, Status, str]:
    """Return what a method answers, with status and detail; an exception makes it a failure.

    Raises:
        HarnessError: if the method raises one, because it ends the run.
    """
    try:
        return await work, Status.OK, ""
    except HarnessError:
        raise
    except Unanswered as error:
        return None, error.status, error.detail
    except Exception as error:
        logger.debug("an item failed", exc_info=True)
        return None, Status.FAILED, f"{type(error).__name__}: {error}"
