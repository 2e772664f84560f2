"""What the stages of a run say to each other: frozen records and their JSON form.

The records are the run's whole result. Every statistic, table and picture is computed from them alone.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field, TypeAdapter

T = TypeVar("T")


class Status(enum.StrEnum):
    """How an answer ended. All but ``ok`` are failures, which are counted: never a zero, a tie or a dropped row."""

    OK = "ok"
    UNPARSED = "unparsed"  # an answer came, but not in the asked-for form
    REFUSED = "refused"  # the model declined
    TRUNCATED = "truncated"  # the answer hit the token limit
    FAILED = "failed"  # no usable answer came: an error, a missing input


class VectorKind(enum.StrEnum):
    """Which of a neuron's weight vectors: what it reads (``gate``, ``in``) or what it writes (``out``)."""

    GATE = "gate"
    IN = "in"
    OUT = "out"


class Sign(enum.StrEnum):
    """Which of a neuron's activations are meant: those above zero, or those below."""

    POSITIVE = "positive"
    NEGATIVE = "negative"


class Split(enum.StrEnum):
    """Document-disjoint parts of the corpus; describers see the first two, judges the last two."""

    EXPLAIN = "explain"
    SELECT = "select"
    CALIBRATE = "calibrate"
    REPORT = "report"


class Source(enum.StrEnum):
    """Why a window became an exemplar."""

    TOP = "top"  # among the highest activations
    QUANTILE = "quantile"  # drawn from one of several equal parts of the windows that activate, by their activation
    RANDOM = "random"  # drawn from all windows


class Winner(enum.StrEnum):
    """Which of the two descriptions a verdict prefers, by the place in which it was shown."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


class Side(enum.StrEnum):
    """Which side of a neuron a judge looks at. Evidence of one side favours the methods that use the same side."""

    INPUT = "input"  # what makes it active
    OUTPUT = "output"  # what its activation does to the model's output
    BOTH = "both"


_NAME = re.compile(r"L(\d+)(?:E(\d+))?N(\d+)(-?)")


@functools.total_ordering
@dataclass(frozen=True)
class Neuron:
    """One MLP neuron of the subject model, at one of its two signs.

    Ordered by layer, expert (those without one first), index and sign. A neuron can mean one thing when it is active
    above zero and another below, so each sign is described and judged as a neuron of its own: whatever belongs to the
    negative one is told as if the neuron's sign were turned round. The decomposition knows :attr:`whole` neurons only.

    Attributes:
        layer: its layer, from 0.
        index: its index in the MLP's hidden dimension, from 0.
        expert: in layers that are mixtures of experts, the expert, from 0; none in all others, and for the neurons of
            an expert that all tokens share.
        sign: which of its activations are meant.
    """

    layer: int
    index: int
    expert: Annotated[int | None, Field(exclude_if=lambda expert: expert is None)] = None
    # A column of a table that holds both signs says null of the positive one.
    sign: Annotated[
        Sign,
        BeforeValidator(lambda sign: sign or Sign.POSITIVE),
        Field(exclude_if=lambda sign: sign is Sign.POSITIVE),
    ] = Sign.POSITIVE

    @classmethod
    def named(cls, name: str) -> Neuron:
        """Return the neuron of a name such as ``L3N17``, the reverse of ``str``.

        Raises:
            ValueError: if it is no such name.
        """
        match = _NAME.fullmatch(name.strip())
        if match is None:
            raise ValueError(f"{name[:40]!r} is no neuron's name such as L3N17")
        layer, expert, index, minus = match.groups()
        sign = Sign.NEGATIVE if minus else Sign.POSITIVE
        return cls(int(layer), int(index), None if expert is None else int(expert), sign)

    def __lt__(self, other: Neuron) -> bool:
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, int, int, bool]:
        return self.layer, -1 if self.expert is None else self.expert, self.index, self.negative

    def __str__(self) -> str:
        """Return the name used in files and reports: ``L3N17``, with an expert ``L3E2N17``, negative ``L3N17-``."""
        expert = "" if self.expert is None else f"E{self.expert}"
        return f"L{self.layer}{expert}N{self.index}{'-' if self.negative else ''}"

    @property
    def negative(self) -> bool:
        """Whether activations below zero are meant."""
        return self.sign is Sign.NEGATIVE

    @property
    def unsigned(self) -> Neuron:
        """The neuron whatever the sign: what is decomposed, and what observations are clustered by."""
        return self.with_sign(Sign.POSITIVE)

    def with_sign(self, sign: Sign) -> Neuron:
        """Return the neuron at a sign."""
        return self if sign is self.sign else dataclasses.replace(self, sign=sign)

    def flips(self, kind: VectorKind) -> bool:
        """Tell whether a weight vector of the neuron is to be read the other way round for this sign.

        A gate opens for both signs; ``in`` makes the activation negative where it points away, and a negative
        activation writes the opposite of ``out``.
        """
        return self.negative and kind is not VectorKind.GATE


@dataclass(frozen=True)
class ScoredToken:
    """A vocabulary token and its z-score in a projection (standard deviations from the vocabulary's mean)."""

    token: str
    z: float


@dataclass(frozen=True)
class Channel:
    """One vocabulary channel of one weight vector, as ROTATE found it.

    Attributes:
        neuron: the neuron.
        kind: which of its weight vectors.
        rank: order of discovery, from 0.
        kurtosis: population excess kurtosis of the channel's unweighted projection on the vocabulary.
        skewness: of the same projection; its sign says which tail carries the channel's tokens.
        cosine: between the channel and the weight vector.
        loss: ROTATE's objective at the channel, with the token weights then in force.
        masked_tokens: how many tokens this channel's mask covers.
        positive: highest tokens of the projection, best first.
        negative: lowest tokens of the projection, lowest first.
        histogram: counts of the projection's z-scores in equal bins over [-10, 10], the outer bins open.
    """

    neuron: Neuron
    kind: VectorKind
    rank: int
    kurtosis: float
    skewness: float
    cosine: float
    loss: float
    masked_tokens: int
    positive: tuple[ScoredToken, ...]
    negative: tuple[ScoredToken, ...]
    histogram: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[ScoredToken, ...]:
        """The tokens of the heavier tail."""
        return self.positive if self.skewness >= 0 else self.negative

    def with_sign(self, sign: Sign) -> Channel:
        """Return the channel as the neuron at a sign has it: the other way round where its vector is."""
        turned = _at(self, sign)
        return dataclasses.replace(turned, histogram=self.histogram[::-1]) if turned.neuron.flips(self.kind) else turned


@dataclass(frozen=True)
class VectorSummary:
    """A weight vector as a whole, beside which its channels are read.

    Attributes:
        neuron: the neuron.
        kind: which of its weight vectors.
        norm: Euclidean norm of the vector.
        kurtosis: population excess kurtosis of its projection on the vocabulary.
        skewness: of the same projection.
        positive: highest tokens of the projection, best first.
        negative: lowest tokens of the projection, lowest first.
        reconstruction: share of the squared norm inside the span of the first 1, 2, ... channels.
    """

    neuron: Neuron
    kind: VectorKind
    norm: float
    kurtosis: float
    skewness: float
    positive: tuple[ScoredToken, ...]
    negative: tuple[ScoredToken, ...]
    reconstruction: tuple[float, ...]

    def with_sign(self, sign: Sign) -> VectorSummary:
        """Return the vector as the neuron at a sign has it, as :meth:`Channel.at` does."""
        return _at(self, sign)


Projected = TypeVar("Projected", Channel, VectorSummary)


def _at(record: Projected, sign: Sign) -> Projected:
    neuron = record.neuron.with_sign(sign)
    if not neuron.flips(record.kind):
        return dataclasses.replace(record, neuron=neuron)
    return dataclasses.replace(
        record,
        neuron=neuron,
        skewness=-record.skewness,
        positive=tuple(ScoredToken(token.token, -token.z) for token in record.negative),
        negative=tuple(ScoredToken(token.token, -token.z) for token in record.positive),
    )


@dataclass(frozen=True)
class BlockTiming:
    """What one block of the decomposition cost; no other result depends on it.

    Attributes:
        block: name of the block's files.
        vectors: how many weight vectors are in it.
        decompose: seconds in which its worker decomposed.
        records: seconds in which its records were made and written.
        wall: seconds since the block before it was finished, or the stage was begun; all workers together.
    """

    block: str
    vectors: int
    decompose: float
    records: float
    wall: float


@dataclass(frozen=True)
class Restart:
    """A weight vector's channels sought again from another start, and how they agree with the first ones.

    Attributes:
        neuron: the neuron.
        kind: which of its weight vectors.
        restart: number of the other start, from 1.
        cosine: of each channel, in order of discovery, with its partner among those found again.
        jaccard: of the top tokens of the same partners.
        apart: mean cosine of channels that are not partners; none if there is one channel only.
    """

    neuron: Neuron
    kind: VectorKind
    restart: int
    cosine: tuple[float, ...]
    jaccard: tuple[float, ...]
    apart: float | None


@dataclass(frozen=True)
class AblatedChannels:
    """What a weight vector loses without its channels; see :class:`harness.decomposition.Ablation` for the figures.

    Attributes:
        neuron: the neuron.
        kind: which of its weight vectors.
        faithful: of each channel, in order of discovery, the share of the response on its own tokens that goes with it;
            none if there is no response.
        kept: likewise, the share of the response on the other channels' tokens that stays; none if there is none.
        chance: likewise, its squared cosine with the vector: what ``faithful`` would be of a random direction as near.
        complete: share of the response on the vector's strongest tokens that goes with all channels together.
        complete_chance: the same of as many random directions as near.
    """

    neuron: Neuron
    kind: VectorKind
    faithful: tuple[float | None, ...]
    kept: tuple[float | None, ...]
    chance: tuple[float, ...]
    complete: float
    complete_chance: float


@dataclass(frozen=True)
class RandomVector:
    """A random vector decomposed as the weight vectors of a layer and kind are, for comparison.

    Attributes:
        layer: the layer.
        kind: the vector kind.
        place: its number among those drawn, from 0.
        kurtosis: population excess kurtosis of its own projection on the vocabulary.
        channel_kurtosis: that of its channels, in order of discovery.
        cosine: between each channel and the vector.
        loss: ROTATE's objective at each channel.
        reconstruction: share of the squared norm inside the span of the first 1, 2, ... channels.
    """

    layer: int
    kind: VectorKind
    place: int
    kurtosis: float
    channel_kurtosis: tuple[float, ...]
    cosine: tuple[float, ...]
    loss: tuple[float, ...]
    reconstruction: tuple[float, ...]


@dataclass(frozen=True)
class Exemplar:
    """A window of text with the neuron's activation at each of its tokens.

    Attributes:
        neuron: the neuron.
        split: the part of the corpus that the window's document belongs to.
        source: why it was kept.
        document: identity of the document (a hash of its text).
        window: number of the window in the corpus.
        tokens: the window's tokens as text; special tokens and those of a chat template are left out. Where a further
            turn of a conversation begins, its first token begins with a new line.
        activations: one value per token; of a neuron at its negative sign, those of the neuron times -1.
    """

    neuron: Neuron
    split: Split
    source: Source
    document: str
    window: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    @property
    def peak(self) -> int:
        """Position of the highest activation."""
        return max(range(len(self.activations)), key=self.activations.__getitem__)

    @property
    def activation(self) -> float:
        """The highest activation in the window."""
        return self.activations[self.peak]

    def around_peak(self, length: int, *, shift: bool) -> range:
        """Return the positions of at most ``length`` tokens around the peak, with the peak in the middle.

        Args:
            length: tokens.
            shift: at an end of the window, whether to shift the range inwards; otherwise it is cut off there.
        """
        start = self.peak - length // 2
        if shift:
            start = max(0, min(start, len(self.tokens) - length))
        return range(max(0, start), min(start + length, len(self.tokens)))

    def crop(self, length: int, *, shift: bool) -> Exemplar:
        """Return the window cropped to :meth:`around_peak`."""
        kept = self.around_peak(length, shift=shift)
        part = slice(kept.start, kept.stop)
        return dataclasses.replace(self, tokens=self.tokens[part], activations=self.activations[part])


@dataclass(frozen=True)
class TextPrompt:
    """A piece of the corpus over which the effects of interventions are averaged.

    Attributes:
        split: the part of the corpus that its document belongs to.
        document: identity of the document.
        tokens: its token ids, special ones left out.
        text: the same as text.
    """

    split: Split
    document: str
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Effect:
    """What clamping a neuron does to the logits of the next token, on average over pieces of text.

    The change of the log-probabilities differs from that of the logits by the same number for every token: order and
    z-scores are those of both.

    Attributes:
        neuron: the neuron.
        split: the part of the corpus that the pieces come from.
        value: what its activation was clamped to at every token of the text; of a neuron at its negative sign, told as
            if the neuron were turned round.
        scale: standard deviation of the mean change over the vocabulary, in logits.
        promoted: tokens whose logits rise most, best first, each with the z-score of its change.
        suppressed: tokens whose logits fall most, lowest first, likewise.
    """

    neuron: Neuron
    split: Split
    value: float
    scale: float
    promoted: tuple[ScoredToken, ...]
    suppressed: tuple[ScoredToken, ...]


@dataclass(frozen=True)
class SteeredText:
    """How the subject goes on from a neutral prompt while a neuron is held or pushed, or while nothing is done.

    Texts of the same neuron, prompt and sample are drawn from the same random numbers: they differ by the intervention.

    Attributes:
        neuron: the neuron.
        prompt: the prompt, of the config and not of the corpus.
        sample: number of the draw, from 0.
        strength: how strongly, in the config's unit; none if nothing is done.
        value: the same in units of the activation, of a neuron at its negative sign as if it were turned round.
        text: what follows the prompt.
    """

    neuron: Neuron
    prompt: str
    sample: int
    strength: float | None
    value: float | None
    text: str


@dataclass(frozen=True)
class Activity:
    """How often and how strongly a neuron is active in one part of the corpus, over all tokens that count.

    Activations are those of the neuron's sign. Nearly every activation of a neuron without a hard zero (GELU, SiLU,
    gated) is above or below zero by a little, so its ``density`` says little; ``strong_density`` says how often it
    really fires.

    Attributes:
        neuron: the neuron.
        split: the part of the corpus.
        tokens: tokens read; one that stands in several overlapping windows counts in each.
        density: share of them with an activation above 0.
        strong_density: share of them with an activation of ``threshold`` or more.
        threshold: the activation from which on ``strong_density`` counts: a share of the maximum that the
            configuration sets (evidence.strong), rounded down by less than a fifth.
        mean: mean activation.
        mean_active: mean of the activations above 0; 0 if there are none.
        maximum: highest activation; 0 if none is above 0.
    """

    neuron: Neuron
    split: Split
    tokens: int
    density: float
    strong_density: float
    threshold: float
    mean: float
    mean_active: float
    maximum: float


@dataclass(frozen=True)
class RoleUsage:
    """What an item asked of one LLM role.

    Attributes:
        calls: LLM calls, cached ones included: what the method costs, not what this run paid.
        prompt_tokens: tokens in.
        completion_tokens: tokens out.
        seconds: time from question to answer, summed over calls, which overlap; time in queues included.
        cost: what the tokens cost by the role's prices; none if it has none.
        cached_calls: those of the calls that were answered from the cache; this run paid for the others, be it for an
            earlier record of the same item.
        cached_prompt_tokens: tokens in, of these calls.
        cached_completion_tokens: tokens out, of these calls.
        paid: what the calls that were not cached cost; none without prices.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float | None = None
    cached_calls: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0
    paid: float | None = None

    def after(self, earlier: RoleUsage) -> RoleUsage:
        """Return this with what an earlier record of the item paid: as many calls less came from the cache.

        An answer that was paid for and is read again counts once; one that was drawn anew, as often as it was drawn.
        """
        paid_before = {name: getattr(earlier, name) - getattr(earlier, f"cached_{name}") for name in _COUNTS}
        paid = {name: paid_before[name] + getattr(self, name) - getattr(self, f"cached_{name}") for name in _COUNTS}
        counts = {name: max(getattr(self, name), paid[name]) for name in _COUNTS}
        money = None if self.paid is None or earlier.paid is None else round(self.paid + earlier.paid, 9)
        return RoleUsage(
            **counts,
            seconds=round(self.seconds + earlier.seconds, 3),
            cost=self.cost if self.cost is None or money is None else max(self.cost, money),
            **{f"cached_{name}": counts[name] - paid[name] for name in _COUNTS},
            paid=money,
        )


#: What is counted of the calls to a role, and of those that were cached.
_COUNTS = ("calls", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Usage:
    """What an item cost: LLM calls asked for (cached ones included), tokens in and out, wall seconds, and by role."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    roles: Annotated[dict[str, RoleUsage], Field(exclude_if=lambda roles: not roles)] = field(default_factory=dict)

    @classmethod
    def of(cls, roles: Mapping[str, RoleUsage], seconds: float) -> Usage:
        """Return what an item cost that took so many seconds and asked this of each role."""
        sums = {name: sum(getattr(one, name) for one in roles.values()) for name in _COUNTS}
        return cls(**sums, seconds=round(seconds, 3), roles=dict(roles))

    @property
    def drew_tokens(self) -> bool:
        """Whether any token of it came from an LLM and not from the cache."""
        return any(
            getattr(one, name) > getattr(one, f"cached_{name}") for one in self.roles.values() for name in _COUNTS[1:]
        )

    def after(self, earlier: Usage) -> Usage:
        """Return this with what an earlier record of the same item paid, see :meth:`RoleUsage.after`."""
        if not earlier.roles:
            return self
        roles = dict(self.roles)
        for role, used in sorted(earlier.roles.items()):
            # A role that was not asked this time cost nothing, at whatever price.
            nothing = RoleUsage(cost=used.cost and 0.0, paid=used.paid and 0.0)
            roles[role] = roles.get(role, nothing).after(used)
        return Usage.of(roles, self.seconds + earlier.seconds)


def total_roles(usages: Iterable[Usage]) -> dict[str, RoleUsage]:
    """Return what several items asked of each role together; a sum with a cost that is not known is not known."""
    found: dict[str, list[RoleUsage]] = {}
    for usage in usages:
        for role, used in usage.roles.items():
            found.setdefault(role, []).append(used)
    return {role: _total(used) for role, used in sorted(found.items())}


def _total(used: Sequence[RoleUsage]) -> RoleUsage:
    sums: dict[str, Any] = {}
    for item in dataclasses.fields(RoleUsage):
        values = [getattr(one, item.name) for one in used]
        sums[item.name] = None if None in values else round(math.fsum(values), 9)
        if item.name not in {"seconds", "cost", "paid"}:
            sums[item.name] = sum(values)
    return RoleUsage(**sums)


@dataclass(frozen=True)
class EvidenceSize:
    """How much a describer was shown: windows of text, and tokens, be they of text or of the vocabulary."""

    windows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Corruption:
    """What is known of a contestant's descriptions before anyone judges them: how they were made from right ones.

    Attributes:
        grade: what was done: ``right`` (nothing), ``too broad``, ``half`` and so on.
        quality: how good they are; higher is better, and equal ones have no order: right, padded and rephrased ones are
            equal, and a judge that prefers one of them shows a bias.
        strength: how much was done, from 0 (nothing, which is right) to 1 (as much as there is); comparable inside one
            grade only.
    """

    grade: str
    quality: float
    strength: float = 1.0


@dataclass(frozen=True)
class Description:
    """What one describer says of one neuron.

    Attributes:
        neuron: the neuron.
        describer: the contestant's name (its key in the config).
        text: the description; empty if the status is not ok.
        status: how it ended.
        detail: why it is not ok, or how it was made (for the report).
        parts: intermediate results worth reading, such as one description per channel.
        evidence: how much it was made from.
        usage: what it cost.
    """

    neuron: Neuron
    describer: str
    text: str
    status: Status = Status.OK
    detail: str = ""
    parts: tuple[str, ...] = ()
    evidence: EvidenceSize = field(default_factory=EvidenceSize)
    usage: Usage = field(default_factory=Usage)


def _absent(value: object) -> bool:
    return value is None or value == ()


#: A figure that only some judges give: left out of the JSON where there is none, for verdicts are many.
Figure = Annotated[float | None, Field(exclude_if=_absent)]


@dataclass(frozen=True)
class Vote:
    """What one member of a panel says of the two descriptions: a judge's verdict inside another's.

    Attributes:
        judge: the member's name inside the panel.
        winner: its verdict; none if the status is not ok.
        status: how it ended.
        reason: its reason, or why there is no verdict.
        preference: as in :class:`Verdict`.
        mass: as in :class:`Verdict`.
    """

    judge: str
    winner: Winner | None
    status: Status = Status.OK
    reason: str = ""
    preference: Figure = None
    mass: Figure = None


@dataclass(frozen=True)
class Verdict:
    """What one judge says of two descriptions of one neuron, shown in one order.

    Attributes:
        neuron: the neuron.
        judge: the judge's name.
        first: the describer whose description was shown first.
        second: the describer whose description was shown second.
        symmetric: whether the judge ignores the order, so that one record is the whole comparison.
        winner: the verdict; none if the status is not ok.
        status: how it ended.
        reason: the judge's reason, or why there is no verdict.
        usage: what it cost.
        side: which side of the neuron the judge was shown.
        preference: probability, by the judge's own log-probabilities, that it prefers the description shown first, a
            tie as half, given that it says one of the verdicts; of a panel, the mean over its members. None if it was
            not asked for, or no verdict was likely.
        mass: probability that it says one of the verdicts at all; none if it was not asked for.
        votes: the members' verdicts, if the judge is a panel.
    """

    neuron: Neuron
    judge: str
    first: str
    second: str
    symmetric: bool
    winner: Winner | None
    status: Status = Status.OK
    reason: str = ""
    usage: Usage = field(default_factory=Usage)
    side: Annotated[Side | None, Field(exclude_if=_absent)] = None
    preference: Figure = None
    mass: Figure = None
    votes: Annotated[tuple[Vote, ...], Field(exclude_if=_absent)] = ()


@dataclass(frozen=True)
class Score:
    """How one scorer grades one description on its own.

    Attributes:
        neuron: the neuron.
        scorer: the scorer's name.
        describer: whose description.
        value: the headline figure (higher is better); none if the status is not ok.
        status: how it ended.
        detail: why there is no value.
        metrics: further figures by name.
        usage: what it cost.
    """

    neuron: Neuron
    scorer: str
    describer: str
    value: float | None
    status: Status = Status.OK
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as plain JSON types."""
    data: dict[str, Any] = _adapter(cast(Hashable, type(record))).dump_python(record, mode="json")
    return data


def from_json(kind: type[T], data: dict[str, Any]) -> T:
    """Rebuild a record of type ``kind`` from what :func:`to_json` returned.

    Raises:
        ValueError: if ``data`` is not such a record.
    """
    return cast(T, _adapter(cast(Hashable, kind)).validate_python(data))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
