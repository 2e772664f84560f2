"""Base classes of describers and judges.

A method is one class and one YAML file with its ``_target_``, from any package. The run makes one instance for each
entry of the config, calls it concurrently with one case each, and turns what it returns or raises into a record.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from harness.errors import HarnessError
from harness.llm.client import LLMClient, Unanswered
from harness.records import (
    Channel,
    Corruption,
    Description,
    Effect,
    EvidenceSize,
    Exemplar,
    Neuron,
    Part,
    Side,
    SignedTokens,
    Source,
    Split,
    Status,
    SteeredText,
    TokenRole,
    VectorKind,
    Vote,
    Winner,
    numbered,
    part_texts,
)

if TYPE_CHECKING:
    from harness.evidence import ReadText, TextReader
    from harness.subject import Subject

logger = logging.getLogger(__name__)

#: How descriptions are made: by the explainer, from tokens of the evidence, or by the explainer if the run has one.
Mode = Literal["auto", "llm", "extractive"]
T = TypeVar("T")
MethodT = TypeVar("MethodT", bound="Method")


@dataclass(frozen=True)
class Case:
    """One neuron with the evidence that a method may see.

    Attributes:
        exemplars: windows of the method's splits: explain and select for describers, calibrate and report for judges.
            The two sets share no document.
        llm: the LLM of the method's role, which counts its calls; None if the method has no role or the run no such
            LLM.
        seed: the run's seed; derive random numbers with :func:`harness.seeds.derive_rng` and the item's identity.
        llms: the LLM of each of the method's roles that the run has.
        effects: effects of clamping the neuron on the next token, one for each value, if the method needs effects;
            averaged over text of the explain split for describers, of the report split for judges. Empty if the values
            are multiples of the peak and the neuron is never active.
    """

    neuron: Neuron
    exemplars: tuple[Exemplar, ...]
    subject: Subject
    llm: LLMClient | None
    seed: int
    llms: Mapping[str, LLMClient] = field(default_factory=dict, kw_only=True)
    effects: tuple[Effect, ...] = field(default=(), kw_only=True)
    reader: TextReader | None = field(default=None, kw_only=True)

    def windows(self, split: Split, source: Source) -> tuple[Exemplar, ...]:
        """Return the exemplars of one split and source: random ones in corpus order, others by falling activation."""
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
            HarnessError: if the case has no reader, or the subject cannot be run.
        """
        if self.reader is None:
            raise HarnessError("this method runs the subject on new text, but the case has no reader")
        return await self.reader.read(self.neuron, texts)


@dataclass(frozen=True)
class DescriberCase(Case):
    """What a describer sees of one neuron.

    Attributes:
        channels: the neuron's channels, of every decomposed vector kind, in order of discovery.
        random_channels: the same for random vectors in place of the neuron's, with the mean and covariance of the
            layer's vectors, if the describer needs them.
        neurons: all neurons of the run, ordered.
        others: for each describer named in ``after``, its descriptions by neuron.
        budget: maximum tokens of evidence (text or vocabulary) that the describer may use; None for no limit.
    """

    channels: tuple[Channel, ...] = ()
    random_channels: tuple[Channel, ...] = ()
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
        contestants: names of the describers whose descriptions are judged, in the order in which they are shown, for
            judges that look answers up, such as human labels in a file. Prompts must not contain them.
        report_windows: number of windows of the report split, of which its random windows are a uniform sample and its
            top windows the most active ones; 0 if it is not known.
        rivals: the descriptions of the neuron by all describers of the run, the judged ones among them. Judges may show
            windows that any of them predicts; they are then the same for every description.
        steered: texts generated under interventions on each neuron of the run, and without, if the judge needs them.
            They start from prompts of the config, not of the corpus, and no describer sees them.
        tokens: the tokens of those descriptions and rivals, and of their parts, that are extractive, by their text.
        parts: the parts of those descriptions and rivals that are sets, by their text.
    """

    contestants: tuple[str, ...] = ()
    tokens: Mapping[str, SignedTokens] = field(default_factory=dict, kw_only=True)
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict, kw_only=True)
    report_windows: int = field(default=0, kw_only=True)
    rivals: tuple[str, ...] = field(default=(), kw_only=True)
    steered: Mapping[Neuron, tuple[SteeredText, ...]] = field(default_factory=dict, kw_only=True)

    def parts_of(self, description: str, side: Side = Side.INPUT) -> list[tuple[str, int]]:
        """Return the texts that a judge of one side reads for a description, each with its sign.

        A single text is its own part, with sign 1. Of a set these are the parts about the side, or all if none is. The
        sign is -1 for parts about what silences the neuron or what it suppresses.
        """
        parts = self.parts.get(description, ())
        own = [part for part in parts if side in (Side.BOTH, part.role.side)] or parts
        lowering = (TokenRole.SILENCING, TokenRole.SUPPRESSED)
        return [(part.text, -1 if part.role in lowering else 1) for part in own] or [(description, 1)]

    def shown(self, description: str) -> str:
        """Return a description as an LLM reads it that sees all of it: a set is a numbered list."""
        parts = self.parts.get(description)
        return numbered(parts) if parts else description


@dataclass(frozen=True)
class Draft:
    """A description as a describer returns it.

    Attributes:
        detail: how it was made, for the report.
        steps: intermediate results for the report, such as one description per channel.
        evidence: size of the evidence it was made from.
        tokens: the tokens that the text lists, if it is extractive.
        parts: the descriptions of a set; see :meth:`of_parts`.
        missing_parts: as in :class:`harness.records.Description`.
    """

    text: str
    detail: str = ""
    steps: tuple[str, ...] = ()
    evidence: EvidenceSize = field(default_factory=EvidenceSize)
    tokens: SignedTokens | None = None
    parts: tuple[Part, ...] = ()
    missing_parts: int = 0

    @classmethod
    def of(cls, made: str | Draft) -> Draft:
        """Return what a describer returned as a draft."""
        return cls(made) if isinstance(made, str) else made

    @classmethod
    def of_parts(cls, parts: Sequence[Part], detail: str = "", **more: Any) -> Draft:
        """Return a set of descriptions; a single one is a text.

        Args:
            parts: the descriptions, with weights of any sum above 0. Texts that are equal and have the same role are
                one part.
            detail: how they were made.
            more: further attributes of the draft.

        Raises:
            ValueError: if there are no parts, or weights are negative or all 0.
        """
        merged: dict[tuple[str, TokenRole], Part] = {}
        for part in parts:
            text = " ".join(part.text.split())
            known = merged.get((text, part.role))
            weight = part.weight + (known.weight if known else 0.0)
            merged[text, part.role] = replace(part, text=text, weight=weight)
        total = sum(part.weight for part in merged.values())
        if not total > 0 or any(part.weight < 0 for part in parts):
            raise ValueError("a set needs a part, and weights of at least 0 that are not all 0")
        found = [replace(part, weight=round(part.weight / total, 6)) for part in merged.values()]
        found.sort(key=lambda part: -part.weight)
        items = [(part.role, token) for part in found for token in part.tokens or ()]
        tokens = SignedTokens.of(dict.fromkeys(items)) if all(part.tokens is not None for part in found) else None
        text = PART_SEPARATOR.join(part_texts(found))
        return cls(text, detail, tokens=tokens, parts=tuple(found) if len(found) > 1 else (), **more)


#: Between the texts of a set. It is no word, so that a set is as long as its texts.
PART_SEPARATOR = " | "


def reading(made: Iterable[Draft | Description]) -> dict[str, Any]:
    """Return the attributes ``tokens`` and ``parts`` of a :class:`JudgeCase` for some descriptions."""
    tokens: dict[str, SignedTokens] = {}
    parts: dict[str, tuple[Part, ...]] = {}
    for one in made:
        tokens |= {part.text: SignedTokens(part.tokens) for part in one.parts if part.tokens is not None}
        tokens |= {} if one.tokens is None else {one.text: one.tokens}
        parts |= {one.text: one.parts} if one.parts else {}
    return {"tokens": tokens, "parts": parts}


@dataclass(frozen=True)
class Judgement:
    """A comparator's verdict and its reason.

    Attributes:
        winner: the verdict; None if the status is not ok, for a panel without a verdict whose votes are recorded.
        preference: as in :class:`harness.records.Verdict`, as are ``mass`` and ``votes``.
    """

    winner: Winner | None
    reason: str = ""
    preference: float | None = None
    mass: float | None = None
    votes: tuple[Vote, ...] = ()
    status: Status = Status.OK


@dataclass(frozen=True)
class EvidenceBlock:
    """Evidence of one kind, as people read it.

    Attributes:
        title: what the texts are.
        texts: the texts, with marked tokens between « and ».
    """

    title: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Grade:
    """A scorer's main metric (higher is better), and further metrics by name."""

    value: float
    metrics: dict[str, float] = field(default_factory=dict)


class Method:
    """Common base of describers and judges.

    Attributes:
        role: its LLM role, or None; if the run has no LLM in that role, ``case.llm`` is None.
        needs_logprobs: whether it needs log-probabilities of prompts, which not every server provides.
        extra_roles: its other LLM roles, found in ``case.llms``, each with whether it needs log-probabilities.
        llm_required: whether it cannot work without the LLMs of its roles; without them the run leaves a scorer out,
            and does not start with any other method.
        is_human: whether its answers come from people who read the descriptions.
        needs_effects: whether the run must measure the effects of clamping the neurons.
        needs_steered: whether the run must generate steered texts; only judges get them.
        inner: the methods that it calls, whose roles are among its ``extra_roles``. The run checks them and records
            their prompts as well.
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
        """All its LLM roles, each with whether it needs log-probabilities."""
        return {**({self.role: self.needs_logprobs} if self.role is not None else {}), **self.extra_roles}

    @property
    def walk(self) -> Iterator[Method]:
        """The method itself and all methods inside it, at any depth."""
        yield self
        for method in self.inner:
            yield from method.walk

    @property
    def inputs(self) -> str | None:
        """What its answers depend on besides its options and prompts, such as the hash of a file; None for nothing."""
        return None

    def unavailable(self, subject: Subject) -> str | None:
        """Return why it cannot work with a subject, such as one without a causal head; None if it can.

        A run with such a describer or comparator does not start. Such a scorer is left out with a warning: that is
        neither a failure of the descriptions nor a zero.
        """
        if not (self.needs_effects or self.needs_steered):
            return None
        from harness.subject import lacks_head  # imports transformers

        return lacks_head(subject)

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        """Check that the LLMs can do what only this method needs, before the first item.

        By default this calls the preflight of the methods inside it, each with its own roles.

        A run that has work for the method calls it once, after the general checks of the LLMs: that they answer, follow
        a schema and, where needed, return log-probabilities. Calls made here are not cached.

        Args:
            llms: the LLM of each of the method's roles that the run has.

        Returns:
            One line for the log, or an empty text.

        Raises:
            HarnessError: if an LLM is not suitable; one line with the cause and the cure.
        """
        parts = [(one, {role: llms[role] for role in one.roles if role in llms}) for one in self.inner]
        return "; ".join(filter(None, [await one.preflight(own) for one, own in parts if own]))


class Describer(Method, ABC):
    """Describes in words what a neuron does.

    Attributes:
        control: whether it is a control, which results mark as such. A real method must beat a control.
        informed: whether a control knows the neuron. It shows what a step of a method adds: it may win, and a run that
            it wins is no less trustworthy.
        needs_channels: whether the run must decompose the neurons for it.
        needs_random_channels: whether the run must also decompose random vectors in place of the neurons' for it.
        needs_exemplars: whether the run must collect activations for it.
        kinds: the vector kinds whose channels it reads; empty for all that are decomposed.
        after: names of the describers whose descriptions it reads.
        extractive: whether its descriptions consist of tokens of the evidence if it uses neither an LLM nor other
            descriptions.
        corruption: the known quality of its descriptions, if they serve to judge the judges.
    """

    control: ClassVar[bool] = False
    informed: ClassVar[bool] = False
    needs_channels: bool = False
    needs_random_channels: bool = False
    needs_exemplars: bool = False
    kinds: tuple[VectorKind, ...] = ()
    after: tuple[str, ...] = ()
    extractive: bool = True
    corruption: Corruption | None = None
    llm_required: bool = False

    @property
    def checked(self) -> Describer:
        """The describer that shows planted evidence to the explainer: itself, or the one that it wraps."""
        return self

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Check options and files before the run starts, given the neurons to describe and their subject.

        Raises:
            HarnessError: if something is wrong; one line with the cause and the cure.
        """

    @abstractmethod
    async def describe(self, case: DescriberCase) -> str | Draft:
        """Describe one neuron.

        Raises:
            Unanswered: if the LLM gave no usable answer. The run records any other exception as a failure, too.
        """


class Comparator(Method, ABC):
    """Decides which of two descriptions of a neuron is better.

    Attributes:
        symmetric: whether the order of the two cannot matter; otherwise the run asks in both orders.
        side: the side of the neuron that it sees. Verdicts of the two sides are reported separately as well as
            together, because evidence of one side favours describers that use the same side.
    """

    symmetric: bool = False
    side: Side = Side.INPUT

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Check options and files before the run starts, given the neurons and the describers to compare.

        Raises:
            HarnessError: if something is wrong; one line with the cause and the cure.
        """

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Return whether it compares a pair of describers on a neuron; the run does not ask it for other pairs."""
        return True

    def evidence(self, case: JudgeCase, first: str, second: str) -> tuple[EvidenceBlock, ...]:
        """Return what it sees of a neuron, for people who compare the same descriptions; empty if it cannot be shown.

        Raises:
            Unanswered: if the neuron has no such evidence.
        """
        return ()

    @abstractmethod
    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare two descriptions of one neuron; raises as :meth:`Describer.describe` does."""


class Scorer(Method, ABC):
    """Grades one description on its own."""

    def check(self, neurons: Sequence[Neuron]) -> None:
        """Check options and files before the run starts, given the neurons whose descriptions are graded.

        Raises:
            HarnessError: if something is wrong; one line with the cause and the cure.
        """

    def covers(self, neuron: Neuron, describer: str) -> bool:
        """Return whether it grades a describer's description of a neuron; the run does not ask it for others."""
        return True

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


def only_method(given: Any, kind: type[MethodT], option: str) -> tuple[str, MethodT]:
    """Return the name and the method that an option holds; raises ValueError if it is not one method of that class."""
    named = given if isinstance(given, Mapping) else {type(given).__name__: given}
    if len(named) != 1:
        raise ValueError(f"{option} names {len(named)} methods ({', '.join(named)}) and must name one")
    ((name, method),) = named.items()
    if not isinstance(method, kind):
        raise ValueError(f"{option} must be a {kind.__name__}, not {name}")
    return name, method


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
