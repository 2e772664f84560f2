"""ROTATE: describe each vocabulary channel from its tokens, then merge the channel descriptions into one.

Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005. The authors released the decomposition only; the prompts are
ours (``prompts/rotate_channel.j2``, ``prompts/rotate_merge.j2``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from describers.answers import INPUT_ROLES, OUTPUT_ROLES, ExplainerDescriber, distinct, extract, gist
from describers.evidence import Group, size_of, texts_of
from harness.llm.client import LLMClient, Unanswered
from harness.llm.degenerate import ask_description
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft, Mode
from harness.records import TOKEN_LABELS, Channel, Part, ScoredToken, Status, TokenRole, VectorKind
from harness.validation import DISTINCT, Count, Fraction, Number, OneOrMore, validated

#: What a channel of each vector kind says about the neuron, written for the explainer.
MEANING = {
    VectorKind.GATE: "the neuron reads from its input (it gates the activation)",
    VectorKind.IN: "the neuron reads from its input (it sets the size of the activation)",
    VectorKind.OUT: "the neuron writes to its output",
}
#: What the tokens of a channel do, at the sign that is described, written for the explainer.
DOES = {
    TokenRole.ACTIVATING: "make the neuron active",
    TokenRole.SILENCING: "keep the neuron inactive, or give its activation the opposite sign",
    TokenRole.PROMOTED: "become likelier as the next token when the neuron is active",
    TokenRole.SUPPRESSED: "become unlikelier as the next token when the neuron is active",
}
#: What the prompt asks an explainer to answer for tokens that have nothing in common.
NO_PATTERN = "no clear pattern"
#: Least length of a part of a set, in words: a set of ``target_words`` has as many parts as this allows.
MIN_PART_WORDS = 5
_MIN_TOKENS = 6  # a small budget is spent on fewer channels rather than on channels with fewer tokens than this


@dataclass(frozen=True)
class _View:
    """What is shown of a channel: tokens of its heavier tail, and of the other tail for contrast."""

    channel: Channel
    tokens: tuple[str, ...]
    other: tuple[str, ...] = ()


class Rotate(ExplainerDescriber):
    """Describes a neuron from its weights alone.

    The tokens of each channel's heavier tail have a role (:func:`role_of`), which prompts, extractive descriptions and
    joined ones state. A channel has a positive cosine with its weight vector, so the vector shares the signs of the
    channel's projection. For a gated neuron, ``activation = act(gate . x) (in . x)`` with an ``act`` such as SiLU or
    GELU, which is large for a positive and almost zero for a negative argument:

    - ``gate``, positive tail: opens the neuron, which ``in`` then makes positive or negative; listed as activating.
    - ``gate``, negative tail: closes it, so it is near zero whatever ``in`` reads; silencing, at both signs.
    - ``in``, positive tail: makes the activation positive where the gate is open; activating.
    - ``in``, negative tail: makes it negative where the gate is open; silencing. (Where the gate is closed, the small
      negative values of ``act`` give a small positive activation, which is neglected.)

    ``gate`` thus says whether the neuron is active, and ``in`` at which sign. For a negative neuron, the harness flips
    ``in`` and ``out`` but not ``gate`` (:meth:`harness.records.Neuron.flips`), and the same table applies. A neuron
    without gate, ``act(in . x)``, is opened by the positive tail of ``in`` and closed by the negative one. ``out``
    promotes the tokens of its positive tail and suppresses those of its negative one.

    ``kinds=None`` means all kinds that are decomposed.

    With ``merge=False`` the description is a set with one part for each channel. The set has ``target_words`` words in
    total, as a single text has: they are divided equally among the channels found first, as many as leave each part at
    least :data:`MIN_PART_WORDS` words. A part's weight is the squared cosine of its channel with the weight vector, the
    share of the vector's squared norm along the channel, divided by the sum over the parts.
    """

    needs_channels = True
    #: What one and several channels are called in records.
    unit: ClassVar[str] = "channel"
    units: ClassVar[str] = "channels"
    channel_prompt = Prompt("describers", "prompts/rotate_channel.j2")
    merge_prompt = Prompt("describers", "prompts/rotate_merge.j2")

    @validated
    def __init__(
        self,
        kinds: Annotated[OneOrMore[VectorKind], DISTINCT] | None = (VectorKind.IN, VectorKind.OUT),
        channels: Count | None = 10,
        min_kurtosis: Number | None = None,
        kurtosis_share: Fraction | None = None,
        tokens: Count = 20,
        merge: bool = True,
        channel_words: Count = 15,
        min_described: Fraction = 0.8,
        contexts: bool = False,
        target_words: Count = 30,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        self.kinds = tuple(kinds or ())
        self._channels, self._min_kurtosis, self._kurtosis_share = channels, min_kurtosis, kurtosis_share
        self._tokens, self._merge = tokens, merge
        self._channel_words, self._min_described, self._contexts = channel_words, min_described, contexts

    async def describe(self, case: DescriberCase) -> Draft:
        """Describe every channel, then merge the descriptions."""
        channels = self._chosen(case)
        if not self._merge:
            channels = _found_first(channels, max(1, self.target_words // MIN_PART_WORDS))
        if case.llm is None:
            return self._extract(channels, case.budget)
        views = self._views(channels, case.budget, contrast=True)
        words = self._channel_words if self._merge else self.target_words // len(views)
        # Wait for all answers even if one fails: they are paid for, and the cache should keep them.
        answers = await asyncio.gather(
            *(self._describe_channel(case.llm, view, words) for view in views), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Unanswered):
                raise answer
        found = [(view, text) for view, text in zip(views, answers, strict=True) if isinstance(text, str)]
        failed = [answer for answer in answers if isinstance(answer, Unanswered)]
        lost = f"{len(failed)} of {len(views)} {self.units} without a description: " if failed else ""
        if len(found) < self._min_described * len(views):
            raise Unanswered(failed[0].status, lost + failed[0].detail)
        steps = tuple(
            f"{self._label(view.channel)}: {answer if isinstance(answer, str) else _reason(answer)}"
            for view, answer in zip(views, answers, strict=True)
        )
        detail = f"{'merged from' if self._merge else 'one description for each of'} {len(found)} {self.units}"
        detail += f" ({lost}{_reason(failed[0])})" if failed else ""
        shown = size_of(tokens=[token for view in views for token in (*view.tokens, *view.other)])
        if self._merge:
            return Draft(await self._merged(case.llm, found), detail, steps, shown)
        said = [item for item in found if item[1].strip().rstrip(".").lower() != NO_PATTERN] or found
        parts = [_part(view.channel, text.strip().rstrip(".;")) for view, text in said]
        return Draft.of_parts(parts, detail, steps=steps, evidence=shown, missing_parts=len(failed))

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return the tokens of every channel."""
        return [
            Group(
                "Tokens that stand out most in the vocabulary projection of a direction inside the neuron's weights, "
                f"strongest first. The direction is one of the things that {MEANING[view.channel.kind]}, and these "
                f"tokens {DOES[role_of(view.channel)]}.",
                tokens=view.tokens,
            )
            for view in self._views(self._chosen(case), case.budget, contrast=False)
            if view.tokens
        ]

    def _chosen(self, case: DescriberCase) -> list[Channel]:
        """Return the channels to describe, kind by kind, in order of discovery."""
        found = {kind: self.channels_of(case, kind) for kind in self.kinds or tuple(VectorKind)}
        chosen = [channel for channels in found.values() for channel in self._passing(channels)]
        if not chosen:
            if any(found.values()):
                raise Unanswered(Status.FAILED, f"no channel has a kurtosis of {self._min_kurtosis} (min_kurtosis)")
            raise Unanswered(Status.FAILED, f"no channels of {', '.join(found)} (neurons.kinds)")
        return chosen

    def channels_of(self, case: DescriberCase, kind: VectorKind) -> Sequence[Channel]:
        """Return what is described of one weight vector, most important first."""
        return case.channels_of(kind)

    def _passing(self, channels: Sequence[Channel]) -> Sequence[Channel]:
        """Return the channels of one vector that pass the options."""
        passing = list(channels)
        if self._kurtosis_share is not None:
            count = math.ceil(self._kurtosis_share * len(passing))
            highest = sorted(passing, key=lambda channel: (-channel.kurtosis, channel.rank))[:count]
            passing = sorted(highest, key=lambda channel: channel.rank)
        if self._min_kurtosis is not None:
            passing = [channel for channel in passing if channel.kurtosis >= self._min_kurtosis]
        return passing[: self._channels]

    def _views(self, channels: Sequence[Channel], budget: int | None, *, contrast: bool) -> list[_View]:
        """Return what is shown of the channels: of all of them, or of the strongest for which the budget has room."""
        tokens, other = self._tokens, self._tokens // 2 if contrast else 0
        if budget is not None:
            if budget == 0:
                raise Unanswered(Status.FAILED, "a budget of 0 tokens leaves no room for a channel")
            channels = _found_first(channels, max(1, budget // _MIN_TOKENS))
            room = budget // len(channels)
            tokens = min(tokens, math.ceil(2 * room / 3) if contrast else room)
            other = min(other, room - tokens)
        return [
            _View(
                channel,
                *(self._texts(end, contrast) for end in (channel.tokens[:tokens], _other_tail(channel)[:other])),
            )
            for channel in channels
        ]

    def _texts(self, tokens: Sequence[ScoredToken], prompt: bool) -> tuple[str, ...]:
        return tuple(token.in_context if prompt and self._contexts else token.token for token in tokens)

    async def _describe_channel(self, llm: LLMClient, view: _View, words: int) -> str:
        prompt = self.channel_prompt.render(
            meaning=MEANING[view.channel.kind],
            does=DOES[role_of(view.channel)],
            tokens=view.tokens,
            other=view.other,
            words=words,
            contexts=self._contexts,
        )
        return await ask_description(llm, prompt, gist(words))

    async def _merged(self, llm: LLMClient, found: Sequence[tuple[_View, str]]) -> str:
        channels = [{"does": DOES[role_of(view.channel)], "description": text} for view, text in found]
        return await self.explain(llm, self.merge_prompt, channels=channels)

    def _extract(self, channels: Sequence[Channel], budget: int | None) -> Draft:
        """Take tokens from the heavier tails of the channels in turn, the strongest first, each with its role."""
        views = self._views(channels, budget, contrast=False)
        turns = [
            (role_of(view.channel), view.tokens[index], view.channel)
            for index in range(self._tokens)
            for view in views
            if index < len(view.tokens)
        ]
        steps = tuple(f"{self._label(channel)}: {', '.join(texts_of(channel.tokens[:8]))}" for channel in channels)
        size = size_of(tokens=[token for _, token, _ in turns])
        if self._merge:
            tokens = extract([(role, token) for role, token, _ in turns], self.target_words)
            return Draft(tokens.text, f"tokens of {len(views)} {self.units}", steps, size, tokens)
        lists: dict[Channel, list[str]] = {}
        for (_, word), channel in distinct(turns, self.target_words):
            lists.setdefault(channel, []).append(word)
        parts = [_part(channel, ", ".join(words), tuple(words)) for channel, words in lists.items()]
        return Draft.of_parts(parts, f"tokens for each of {len(parts)} {self.units}", steps=steps, evidence=size)

    def _label(self, channel: Channel) -> str:
        return f"{channel.kind} {self.unit} {channel.rank + 1}, {TOKEN_LABELS[role_of(channel)]}"


def role_of(channel: Channel) -> TokenRole:
    """Return what the tokens in the heavier tail of a channel do to the neuron; see :class:`Rotate`."""
    roles = OUTPUT_ROLES if channel.kind is VectorKind.OUT else INPUT_ROLES
    return roles[channel.skewness < 0]


def _found_first(channels: Sequence[Channel], count: int) -> list[Channel]:
    """Return the ``count`` channels that were found first in their vectors, in the given order."""
    kept = sorted(range(len(channels)), key=lambda index: (channels[index].rank, index))[:count]
    return [channels[index] for index in sorted(kept)]


def _part(channel: Channel, text: str, tokens: tuple[str, ...] | None = None) -> Part:
    return Part(text, channel.cosine**2, role_of(channel), tokens)


def _reason(error: BaseException) -> str:
    return f"{error.status}, {error.detail}" if isinstance(error, Unanswered) else str(error)


def _other_tail(channel: Channel) -> tuple[ScoredToken, ...]:
    return channel.negative if channel.skewness >= 0 else channel.positive
