"""Records that the stages of a run exchange, and their JSON form.

The records are the complete result of a run. All statistics, tables and plots are computed from them alone. In all of
them, ``neuron`` is the neuron that they are about, ``kind`` its weight vector, ``status`` how an answer ended, and
``usage`` the LLM calls, tokens and time that it took.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field, TypeAdapter

T = TypeVar("T")


class Status(enum.StrEnum):
    """How an answer ended. All but ``ok`` are failures. They are counted, never treated as a zero, a tie or no row."""

    OK = "ok"
    UNPARSED = "unparsed"  # an answer came, but not in the requested format
    REFUSED = "refused"  # the model declined
    TRUNCATED = "truncated"  # the answer hit the token limit
    DEGENERATE = "degenerate"  # the answer says nothing; harness.llm.degenerate has the rules
    FAILED = "failed"  # no usable answer came: an error, a missing input


class VectorKind(enum.StrEnum):
    """A neuron's weight vector: one that it reads with (``gate``, ``in``), or the one that it writes (``out``)."""

    GATE = "gate"
    IN = "in"
    OUT = "out"


class Sign(enum.StrEnum):
    """Sign of the activations of a neuron that are described."""

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
    QUANTILE = "quantile"  # drawn from one of the quantiles of the activating windows
    RANDOM = "random"  # drawn from all windows


class Winner(enum.StrEnum):
    """Which of the two descriptions a verdict prefers, by the order in which they were shown."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


class Side(enum.StrEnum):
    """Side of a neuron that a judge sees. Evidence of one side favours describers that use the same side."""

    INPUT = "input"  # what makes it active
    OUTPUT = "output"  # how its activation changes the model's output
    BOTH = "both"


class TokenRole(enum.StrEnum):
    """What a token of an extractive description does; see :class:`SignedTokens`."""

    ACTIVATING = "activating"
    SILENCING = "silencing"
    PROMOTED = "promoted"
    SUPPRESSED = "suppressed"

    @property
    def side(self) -> Side:
        """The side of the neuron that it is about."""
        return Side.INPUT if self in (TokenRole.ACTIVATING, TokenRole.SILENCING) else Side.OUTPUT


#: How the text of an extractive description introduces the tokens of each role.
TOKEN_LABELS = {
    TokenRole.ACTIVATING: "activated by",
    TokenRole.SILENCING: "silenced by",
    TokenRole.PROMOTED: "promotes",
    TokenRole.SUPPRESSED: "suppresses",
}

_NAME = re.compile(r"L(\d+)(?:E(\d+))?N(\d+)(-?)")


@functools.total_ordering
@dataclass(frozen=True)
class Neuron:
    """One MLP neuron of the subject model, or one latent of a dictionary (``subject.sae``), with one of its two signs.

    Ordered by layer, expert (neurons without one first), index and sign. Positive and negative activations of a neuron
    can mean different things, so each sign is described and judged as a neuron of its own. All values of a negative
    neuron are those of the neuron times -1. The decomposition uses only :attr:`unsigned` neurons. Layer, index (in the
    MLP's hidden dimension) and expert count from 0; ``expert`` is None outside mixture-of-experts layers, and for an
    expert that all tokens share.
    """

    layer: int
    index: int
    expert: Annotated[int | None, Field(exclude_if=lambda expert: expert is None)] = None
    # Tables that hold both signs store the positive one as null.
    sign: Annotated[
        Sign,
        BeforeValidator(lambda sign: sign or Sign.POSITIVE),
        Field(exclude_if=lambda sign: sign is Sign.POSITIVE),
    ] = Sign.POSITIVE

    @classmethod
    def named(cls, name: str) -> Neuron:
        """Return the neuron with a name such as ``L3N17``, the inverse of ``str``.

        Raises:
            ValueError: if the name is not valid.
        """
        match = _NAME.fullmatch(name.strip())
        if match is None:
            raise ValueError(f"{name[:40]!r} is not the name of a neuron, such as L3N17")
        layer, expert, index, minus = match.groups()
        sign = Sign.NEGATIVE if minus else Sign.POSITIVE
        return cls(int(layer), int(index), None if expert is None else int(expert), sign)

    def __lt__(self, other: Neuron) -> bool:
        return self.order < other.order

    @property
    def order(self) -> tuple[int, int, int, bool]:
        """The sort key; sorting by it is faster than comparing neurons."""
        return self.layer, -1 if self.expert is None else self.expert, self.index, self.sign is Sign.NEGATIVE

    def __str__(self) -> str:
        """Return the name used in files and reports: ``L3N17``, with an expert ``L3E2N17``, negative ``L3N17-``."""
        expert = "" if self.expert is None else f"E{self.expert}"
        return f"L{self.layer}{expert}N{self.index}{'-' if self.negative else ''}"

    @property
    def negative(self) -> bool:
        """Whether the sign is negative."""
        return self.sign is Sign.NEGATIVE

    @property
    def unsigned(self) -> Neuron:
        """The neuron without its sign: the unit of the decomposition, and the cluster of the statistics."""
        return self.with_sign(Sign.POSITIVE)

    def with_sign(self, sign: Sign) -> Neuron:
        """Return the same neuron with another sign."""
        return self if sign is self.sign else dataclasses.replace(self, sign=sign)

    def flips(self, kind: VectorKind) -> bool:
        """Return whether a weight vector counts as its negative for this sign.

        A gate opens for both signs. An input opposite to ``in`` makes the activation negative, and a negative
        activation writes the opposite of ``out``.
        """
        return self.negative and kind is not VectorKind.GATE


def _absent(value: object) -> bool:
    return value is None or value in ((), "")


@dataclass(frozen=True)
class Draw:
    """A further description of every neuron by every describer.

    Attributes:
        number: from 1; the first descriptions of a run are no draw.
        resampled: whether it is made from another sample of the evidence, with everything else the same. Otherwise the
            evidence is the same, and the random numbers are others.
    """

    number: int
    resampled: bool = False

    def __str__(self) -> str:
        return f"{'resampled' if self.resampled else 'repeated'}-{self.number}"


@dataclass(frozen=True)
class ScoredToken:
    """A vocabulary token in a projection.

    Attributes:
        token: its text.
        z: its z-score (standard deviations from the mean over the vocabulary).
        before: for a fragment of a word in a channel, what stands before it in words of the vocabulary
            (:meth:`harness.subject.token_texts.TokenTexts.before`); empty for other tokens, and if it is not known.
    """

    token: str
    z: float
    # Tables store an absent text as null if other tokens have one.
    before: Annotated[str, BeforeValidator(lambda text: text or ""), Field(exclude_if=_absent)] = ""

    @property
    def in_context(self) -> str:
        """The token, with what stands before a fragment: ``C|incinnati``."""
        return f"{self.before}|{self.token}" if self.before else self.token


@dataclass(frozen=True)
class Channel:
    """One vocabulary channel of one weight vector, found by ROTATE.

    Attributes:
        rank: order of discovery, from 0.
        kurtosis: population excess kurtosis of the channel's projection over the tokens that count, each once.
        skewness: of the same projection; the channel's tokens are in the tail of its sign.
        cosine: between the channel and the weight vector.
        loss: ROTATE's objective at the channel, with the token weights of its search.
        masked_tokens: number of tokens that are masked after the channel was found.
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
        """Return the channel of the neuron with a sign: negated if :meth:`Neuron.flips` says so."""
        signed = _with_sign(self, sign)
        return dataclasses.replace(signed, histogram=self.histogram[::-1]) if signed.neuron.flips(self.kind) else signed


@dataclass(frozen=True)
class VectorSummary:
    """Summary of a complete weight vector, for comparison with its channels.

    Attributes:
        norm: Euclidean norm of the vector; kurtosis, skewness and tokens are those of its projection, as in
            :class:`Channel`.
        reconstruction: share of the squared norm in the span of the first 1, 2, ... channels.
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
        """Return the vector of the neuron with a sign, as :meth:`Channel.with_sign` does."""
        return _with_sign(self, sign)


Projected = TypeVar("Projected", Channel, VectorSummary)


def _with_sign(record: Projected, sign: Sign) -> Projected:
    neuron = record.neuron.with_sign(sign)
    if not neuron.flips(record.kind):
        return dataclasses.replace(record, neuron=neuron)
    return dataclasses.replace(
        record,
        neuron=neuron,
        skewness=-record.skewness,
        positive=tuple(dataclasses.replace(token, z=-token.z) for token in record.negative),
        negative=tuple(dataclasses.replace(token, z=-token.z) for token in record.positive),
    )


@dataclass(frozen=True)
class Restart:
    """Agreement of a weight vector's channels with those found from another starting point.

    Attributes:
        cosine: between each channel, in order of discovery, and its match among the channels of the restart.
        jaccard: overlap of their top tokens.
        apart: mean cosine of channels that do not match; None if there is only one channel.
    """

    neuron: Neuron
    kind: VectorKind
    restart: int
    cosine: tuple[float, ...]
    jaccard: tuple[float, ...]
    apart: float | None


@dataclass(frozen=True)
class AblatedChannels:
    """Effect of removing a weight vector's channels; :class:`harness.decomposition.Ablation` defines the metrics.

    Attributes:
        faithful: for each channel, in order of discovery, the share of the response on its own tokens that is removed
            with it; None if there is no response.
        kept: for each channel, the share of the response on the other channels' tokens that remains; None if there is
            no response.
        chance: for each channel, its squared cosine with the vector: the expected ``faithful`` of a random direction
            with the same cosine.
        complete: share of the response on the vector's strongest tokens that is removed with all channels together;
            None if there is no response.
        complete_chance: the same for equally many random directions with the same cosines.
    """

    neuron: Neuron
    kind: VectorKind
    faithful: tuple[float | None, ...]
    kept: tuple[float | None, ...]
    chance: tuple[float, ...]
    complete: float | None
    complete_chance: float


@dataclass(frozen=True)
class TextAblation:
    """Effect on held-out text of removing a weight vector's channels.

    :mod:`harness.run.text_ablation` has the protocol. Responses are sums over the channel's own positions, for each
    channel in order of discovery.

    Attributes:
        positions: number of the channel's own positions; for ``out``, number of active tokens.
        response: the neuron's response.
        channel: what is left of it without the channel.
        random: what is left without a random direction with the same cosine.
        embedding: what is left without the mean embedding of the channel's top tokens.
        another: what is left without another channel, on average; None for a single channel.
        elsewhere: share of the response lost at the other active positions without the channel; None without such
            positions.
        elsewhere_random: the same without the random direction.
        complete: share of the response lost at all active positions without all channels; None without a response.
        complete_random: the same without all the random directions.
    """

    neuron: Neuron
    kind: VectorKind
    positions: tuple[int, ...]
    response: tuple[float, ...]
    channel: tuple[float, ...]
    random: tuple[float, ...]
    embedding: tuple[float, ...]
    another: tuple[float | None, ...]
    elsewhere: tuple[float | None, ...]
    elsewhere_random: tuple[float | None, ...]
    complete: float | None
    complete_random: float | None


@dataclass(frozen=True)
class RandomVector:
    """Decomposition of a random vector, for comparison with the weight vectors of a layer and kind.

    The values are those of :class:`Channel`, in order of discovery, and of :class:`VectorSummary`; ``place`` is the
    number of the draw, from 0. ``faithful`` and ``complete`` are those of :class:`AblatedChannels`, if channels are
    removed; ``complete`` is None unless the vector has as many channels as a neuron's.
    """

    layer: int
    kind: VectorKind
    place: int
    kurtosis: float
    channel_kurtosis: tuple[float, ...]
    cosine: tuple[float, ...]
    loss: tuple[float, ...]
    reconstruction: tuple[float, ...]
    faithful: tuple[float | None, ...] = ()
    complete: float | None = None


@dataclass(frozen=True)
class Exemplar:
    """A window of text with the neuron's activation at each of its tokens.

    Attributes:
        split: the part of the corpus that the window's document belongs to.
        document: identity of the document (a hash of its text).
        window: number of the window in the corpus.
        tokens: the window's tokens as text, without special tokens and those of a chat template. Tokens that share a
            character, such as the bytes of an emoji, are one (:meth:`harness.subject.token_texts.TokenTexts.pieces`).
            The first token of each later turn of a conversation starts with a newline.
        activations: one value per token, the highest of those that share a character; for a negative neuron, the
            activations times -1.
    """

    neuron: Neuron
    split: Split
    source: Source
    document: str
    window: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    @functools.cached_property
    def peak(self) -> int:
        """Position of the highest activation."""
        return max(range(len(self.activations)), key=self.activations.__getitem__)

    @property
    def activation(self) -> float:
        """The highest activation in the window."""
        return self.activations[self.peak]

    def around(self, length: int, *, shift: bool, centre: int | None = None) -> range:
        """Return the positions of at most ``length`` tokens around a position, which is in the middle.

        Args:
            length: tokens.
            shift: at an end of the window, whether to shift the range inwards; otherwise it is cut off there.
            centre: the position; None for the peak.
        """
        start = (self.peak if centre is None else centre) - length // 2
        if shift:
            start = max(0, min(start, len(self.tokens) - length))
        return range(max(0, start), min(start + length, len(self.tokens)))

    def crop(self, length: int, *, shift: bool) -> Exemplar:
        """Return the window cropped to the tokens around the peak, as :meth:`around` selects them."""
        kept = self.around(length, shift=shift)
        part = slice(kept.start, kept.stop)
        return dataclasses.replace(self, tokens=self.tokens[part], activations=self.activations[part])


@dataclass(frozen=True)
class TextPrompt:
    """A piece of the corpus over which the effects of interventions are averaged; its token ids are not special."""

    split: Split
    document: str
    tokens: tuple[int, ...]
    text: str


class Against(enum.StrEnum):
    """What a neuron is correlated with, to find out whether a list of tokens can describe it."""

    CURRENT = "current"  # activations, with the token that they belong to
    NEXT = "next"  # activations, with the token that follows in the text
    EFFECT = "effect"  # direct logit contribution of ``out``, with the measured change of the logits


@dataclass(frozen=True)
class Alignment:
    """Correlation of an unsigned neuron's activation with a projection of the text's tokens on a weight vector.

    Computed by :mod:`harness.evidence.alignment`, which states the conventions.

    Attributes:
        kind: the weight vector, ``in`` or ``gate``.
        against: which token is projected, ``current`` or ``next``.
        r: Pearson's r over the tokens of the text; None if the activation or the projection is constant.
        control: the same with the weight vector of another neuron of the layer; None also without another neuron.
        tokens: number of tokens.
    """

    neuron: Neuron
    kind: VectorKind
    against: Against
    r: float | None
    control: float | None
    tokens: int


@dataclass(frozen=True)
class Effect:
    """Mean change of the next token's logits over pieces of text when a neuron is clamped.

    The changes of the log-probabilities differ from those of the logits by the same constant for every token, so that
    order and z-scores hold for both.

    Attributes:
        value: value to which its activation was clamped at every token; for a negative neuron, the value times -1.
        scale: standard deviation of the mean change over the vocabulary, in logits.
        promoted: tokens whose logits rise most, best first, each with the z-score of its change.
        suppressed: tokens whose logits fall most, lowest first, each with the z-score of its change.
        sampled: a uniform random sample of the tokens that count, the same for all neurons, each with the z-score of
            its change; empty except on the report split.
        direct: Pearson's r, over the used tokens of the vocabulary, between the mean change and the direct contribution
            of ``out`` to the logits, times -1 if the activation was clamped to a negative value: positive if the neuron
            does what its ``out`` vector says. None if either is constant.
        direct_control: the same with the ``out`` vector of another neuron of the layer; None also if there is none.
    """

    neuron: Neuron
    split: Split
    value: float
    scale: float
    promoted: tuple[ScoredToken, ...]
    suppressed: tuple[ScoredToken, ...]
    sampled: tuple[ScoredToken, ...] = ()
    direct: float | None = None
    direct_control: float | None = None


@dataclass(frozen=True)
class SteeredText:
    """The subject's continuation of a neutral prompt while a neuron is steered, or without steering.

    Texts of the same neuron, prompt and sample use the same random numbers: they differ only by the intervention.

    Attributes:
        strength: strength in the config's unit; None without steering.
        value: strength in units of the activation, for a negative neuron times -1; None without steering.
    """

    neuron: Neuron
    prompt: str
    sample: int
    strength: float | None
    value: float | None
    text: str


@dataclass(frozen=True)
class RoleUsage:
    """Usage of one LLM role by an item.

    Attributes:
        calls: LLM calls, including cached ones: the cost of the method, not what this run paid.
        seconds: latency including time in queues, summed over calls, which may overlap.
        cost: price of all calls; None if the role has no prices.
        cached_calls: calls answered from the cache. This run paid for all others, including those of earlier records of
            the same item.
        paid: price of the calls that were not cached; None if the role has no prices.
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
        """Return this usage plus the paid calls of an earlier record of the same item.

        A paid answer that is now read from the cache counts once, and as paid. Answers that were requested again count
        each time.
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


#: Fields that :class:`RoleUsage` has for all calls and, as ``cached_...``, for the cached ones.
_COUNTS = ("calls", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Usage:
    """Usage of one item: LLM calls (including cached ones), prompt and completion tokens, wall seconds, and by role."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    roles: Annotated[dict[str, RoleUsage], Field(exclude_if=lambda roles: not roles)] = field(default_factory=dict)

    @classmethod
    def of(cls, roles: Mapping[str, RoleUsage], seconds: float) -> Usage:
        """Return the usage of an item from that of each role and its wall seconds."""
        sums = {name: sum(getattr(one, name) for one in roles.values()) for name in _COUNTS}
        return cls(**sums, seconds=round(seconds, 3), roles=dict(roles))

    @property
    def drew_tokens(self) -> bool:
        """Whether any of its tokens came from an LLM rather than the cache."""
        return any(
            getattr(one, name) > getattr(one, f"cached_{name}") for one in self.roles.values() for name in _COUNTS[1:]
        )

    @property
    def cached(self) -> Usage:
        """The same usage if the cache had answered every call: that of a record that replaces an answer's record."""
        roles = {
            role: dataclasses.replace(
                used,
                **{f"cached_{name}": getattr(used, name) for name in _COUNTS},
                seconds=0.0,
                paid=None if used.paid is None else 0.0,
            )
            for role, used in self.roles.items()
        }
        return Usage.of(roles, 0.0)

    def after(self, earlier: Usage) -> Usage:
        """Return this usage plus what an earlier record of the same item paid; see :meth:`RoleUsage.after`."""
        if not earlier.roles:
            return self
        roles = dict(self.roles)
        for role, used in sorted(earlier.roles.items()):
            # A role that was not called this time cost nothing.
            nothing = RoleUsage(cost=used.cost and 0.0, paid=used.paid and 0.0)
            roles[role] = roles.get(role, nothing).after(used)
        return Usage.of(roles, self.seconds + earlier.seconds)


def total_roles(usages: Iterable[Usage]) -> dict[str, RoleUsage]:
    """Return the total usage of each role over several items; a sum of costs is None if one of them is."""
    found: dict[str, list[RoleUsage]] = {}
    for usage in usages:
        for role, used in usage.roles.items():
            found.setdefault(role, []).append(used)

    def total(values: Sequence[Any]) -> Any:
        if None in values:
            return None
        return round(math.fsum(values), 9) if any(isinstance(value, float) for value in values) else sum(values)

    names = [item.name for item in dataclasses.fields(RoleUsage)]
    return {
        role: RoleUsage(**{name: total([getattr(one, name) for one in used]) for name in names})
        for role, used in sorted(found.items())
    }


@dataclass(frozen=True)
class EvidenceSize:
    """Size of the evidence that a describer was shown: windows of text, and tokens of text or of the vocabulary."""

    windows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Corruption:
    """Known quality of a control's descriptions, which were made from right ones, to judge the judges.

    Attributes:
        grade: the kind of change: ``right`` (none), ``too broad``, ``half`` and so on.
        quality: known quality; higher is better. Right, padded and rephrased descriptions are equal: a judge that
            prefers one of them is biased.
        strength: strength of the change, from 0 (none) to 1 (maximal); comparable only within a grade.
    """

    grade: str
    quality: float
    strength: float = 1.0


@dataclass(frozen=True)
class SignedTokens:
    """The tokens of an extractive description, by what they do: strongest first, lower case, without spaces.

    Attributes:
        activating: tokens that make the neuron active.
        silencing: tokens that keep it inactive, or give it the opposite sign.
        promoted: tokens that it makes more likely.
        suppressed: tokens that it makes less likely.
    """

    activating: tuple[str, ...] = ()
    silencing: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()

    @classmethod
    def of(cls, items: Iterable[tuple[TokenRole, str]]) -> SignedTokens:
        """Return the tokens of ``items``, each with its role, in their order."""
        groups: dict[TokenRole, list[str]] = {role: [] for role in TokenRole}
        for role, token in items:
            groups[role].append(token)
        return cls(**{role.value: tuple(tokens) for role, tokens in groups.items()})

    @property
    def items(self) -> list[tuple[TokenRole, str]]:
        """The tokens with their roles, role by role."""
        return [(role, token) for role in TokenRole for token in getattr(self, role)]

    @property
    def text(self) -> str:
        """The description: ``activated by a, b; silenced by c; promotes d; suppresses e``.

        If all tokens are activating, it is ``a, b``.
        """
        if self.activating and len(self.activating) == len(self.items):
            return ", ".join(self.activating)
        groups = ((label, getattr(self, role)) for role, label in TOKEN_LABELS.items())
        return "; ".join(f"{label} {', '.join(tokens)}" for label, tokens in groups if tokens)

    def of_side(self, side: Side) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tokens that count for, and those that count against, on a side; the other side's if it has none.

        A description of the other side alone is a guess about this one, and better than nothing. ``Side.BOTH`` joins
        both sides.
        """
        inputs, outputs = (self.activating, self.silencing), (self.promoted, self.suppressed)
        if side is Side.BOTH:
            return inputs[0] + outputs[0], inputs[1] + outputs[1]
        first, second = (inputs, outputs) if side is Side.INPUT else (outputs, inputs)
        return first if any(first) else second


@dataclass(frozen=True)
class Part:
    """One of several descriptions of a neuron, which together are its description: a *set*.

    Attributes:
        text: the description.
        weight: its share of the neuron, as the describer defines it; those of a set add up to 1.
        role: what the text describes: what activates or silences the neuron, or what it promotes or suppresses.
        tokens: the tokens that the text lists, if it is extractive; None otherwise.
    """

    text: str
    weight: float
    role: TokenRole = TokenRole.ACTIVATING
    tokens: Annotated[tuple[str, ...] | None, Field(exclude_if=_absent)] = None


def part_texts(parts: Sequence[Part]) -> list[str]:
    """Return the texts of a set, each with the label of its role unless all are activating."""
    if all(part.role is TokenRole.ACTIVATING for part in parts):
        return [part.text for part in parts]
    return [f"{TOKEN_LABELS[part.role]} {part.text}" for part in parts]


def numbered(parts: Sequence[Part]) -> str:
    """Return a set as LLMs and people read it: ``1. a; 2. b``."""
    return "; ".join(f"{number}. {text}" for number, text in enumerate(part_texts(parts), start=1))


@dataclass(frozen=True)
class Description:
    """One describer's description of one neuron.

    Attributes:
        describer: the describer's name (its key in the config).
        text: the description; empty if the status is not ok. Of a set, all its texts.
        detail: why the status is not ok, or how the description was made (shown in the report).
        steps: intermediate results for the report, such as one description per channel.
        tokens: the tokens that the text lists, if it is extractive; None otherwise.
        parts: the descriptions of a set, of highest weight first; empty for a single text.
        missing_parts: number of parts that the describer asked for and did not get.
    """

    neuron: Neuron
    describer: str
    text: str
    status: Status = Status.OK
    detail: str = ""
    steps: tuple[str, ...] = ()
    evidence: EvidenceSize = field(default_factory=EvidenceSize)
    usage: Usage = field(default_factory=Usage)
    tokens: Annotated[SignedTokens | None, Field(exclude_if=_absent)] = None
    parts: Annotated[tuple[Part, ...], Field(exclude_if=_absent)] = ()
    missing_parts: Annotated[int, Field(exclude_if=lambda count: not count)] = 0

    @property
    def shown(self) -> str:
        """The description as people read it: a set is a numbered list."""
        return numbered(self.parts) if self.parts else self.text


@dataclass(frozen=True)
class PlantedAnswer:
    """A description of evidence that shows one known concept: how the explainer is checked.

    Attributes:
        describer: name of the describer that showed the evidence to the explainer.
        concept: name of the concept.
        text: the description; empty if the status is not ok.
        named: names of all concepts of the check that the text names, right or wrong.
        detail: why the status is not ok.
    """

    describer: str
    concept: str
    text: str
    named: tuple[str, ...] = ()
    status: Status = Status.OK
    detail: str = ""
    usage: Usage = field(default_factory=Usage)


#: A number that only some judges give; the JSON leaves it out if it is None, because verdicts are many.
OptionalNumber = Annotated[float | None, Field(exclude_if=_absent)]


@dataclass(frozen=True)
class Vote:
    """Verdict of one member of a panel of judges, with its name within the panel; else as :class:`Verdict`."""

    judge: str
    winner: Winner | None
    status: Status = Status.OK
    reason: str = ""
    preference: OptionalNumber = None
    mass: OptionalNumber = None


@dataclass(frozen=True)
class Verdict:
    """One judge's comparison of two descriptions of one neuron, shown in one order.

    Attributes:
        first: the describer whose description was shown first; ``second`` the other.
        symmetric: whether the judge ignores the order, so that one record is the complete comparison.
        winner: the verdict; None if the status is not ok.
        reason: the judge's reason, or why there is no verdict.
        side: side of the neuron that the judge was shown.
        preference: probability that the judge prefers the description shown first (a tie counts half), given that it
            answers with one of the verdicts, from its log-probabilities; for a panel, the mean over its members. None
            if it was not requested, or no verdict was likely.
        mass: probability that the judge answers with one of the verdicts; None if it was not requested.
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
    preference: OptionalNumber = None
    mass: OptionalNumber = None
    votes: Annotated[tuple[Vote, ...], Field(exclude_if=_absent)] = ()


@dataclass(frozen=True)
class Score:
    """One scorer's grade of one description.

    Attributes:
        describer: the describer whose description is graded.
        value: the main metric (higher is better); None if the status is not ok.
        detail: why there is no value.
        metrics: further metrics by name.
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
    return dict(_adapter(type(record)).dump_python(record, mode="json"))


def from_json(kind: type[T], data: dict[str, Any]) -> T:
    """Return a record of type ``kind`` from its JSON form, the inverse of :func:`to_json`.

    Raises:
        ValueError: if ``data`` is not such a record.
    """
    return cast(T, _adapter(kind).validate_python(data))


_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(lambda kind: TypeAdapter(kind))
