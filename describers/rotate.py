"""ROTATE: describe each vocabulary channel from its tokens, then merge the channel descriptions into one.

Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005. The authors released the decomposition only; the prompts are
ours and stand in full beside this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from describers.answers import Explanation, Form, Gist, extract
from harness.llm.asking import all_answers, ask
from harness.llm.client import LLMClient, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Channel, ScoredToken, Status, VectorKind

#: What a channel of each vector kind says of the neuron, in words for the explainer.
MEANING = {
    VectorKind.GATE: "the neuron reads from its input (it gates the activation)",
    VectorKind.IN: "the neuron reads from its input (it sets the size of the activation)",
    VectorKind.OUT: "the neuron writes to its output",
}


class Rotate(Describer):
    """Describes a neuron from its weights alone.

    Args:
        kinds: vector kinds whose channels are described, in order of importance; none for whichever are decomposed.
        channels: channels described per vector, in order of discovery.
        tokens: tokens shown of each channel.
        words: length asked of the merged description; in the extractive form, the number of tokens.
        form: ``auto``, ``llm`` or ``extractive``.
    """

    needs_channels = True
    channel_prompt = Prompt("describers", "prompts/rotate_channel.j2")
    merge_prompt = Prompt("describers", "prompts/rotate_merge.j2")

    def __init__(
        self,
        kinds: Sequence[str] | None = ("in", "out"),
        channels: int = 10,
        tokens: int = 20,
        words: int = 30,
        form: str = "auto",
    ) -> None:
        self.kinds = tuple(VectorKind(kind) for kind in kinds or ())
        self._channels, self._tokens, self._words = channels, tokens, words
        self.role = None if Form(form) is Form.EXTRACTIVE else "explainer"
        self.llm_required = Form(form) is Form.LLM

    async def describe(self, case: DescriberCase) -> Draft:
        """Describe every channel, then merge."""
        kinds = self.kinds or tuple(VectorKind)
        channels = [channel for kind in kinds for channel in case.channels_of(kind)[: self._channels]]
        if not channels:
            raise Unanswered(Status.FAILED, f"no channels of {', '.join(kinds)} (neurons.kinds)")
        if case.llm is None:
            return self._extract(channels)
        parts = await all_answers(self._describe_channel(case.llm, channel) for channel in channels)
        merged = await ask(
            case.llm,
            self.merge_prompt.render(
                channels=[
                    {"meaning": MEANING[channel.kind], "description": part}
                    for channel, part in zip(channels, parts, strict=True)
                ],
                words=self._words,
            ),
            Explanation,
        )
        labelled = (f"{_label(channel)}: {part}" for channel, part in zip(channels, parts, strict=True))
        return Draft(merged.description, f"merged from {len(channels)} channels", tuple(labelled))

    async def _describe_channel(self, llm: LLMClient, channel: Channel) -> str:
        prompt = self.channel_prompt.render(
            meaning=MEANING[channel.kind],
            promoted=channel.skewness >= 0,
            tokens=[token.token for token in channel.tokens[: self._tokens]],
            other=[token.token for token in _other_tail(channel)[: self._tokens // 2]],
        )
        return (await ask(llm, prompt, Gist)).description

    def _extract(self, channels: Sequence[Channel]) -> Draft:
        """Take tokens from the channels in turn, the strongest of each first.

        Only channels whose tokens lie on the positive side can be said in tokens alone: the negative side names what
        the neuron is *not* about. If there is no positive one the positive tails of all are taken.
        """
        positive = [channel for channel in channels if channel.skewness >= 0] or list(channels)
        heads = [[token.token for token in channel.positive[: self._tokens]] for channel in positive]
        turns = [head[place] for place in range(self._tokens) for head in heads if place < len(head)]
        parts = tuple(
            f"{_label(channel)}: {', '.join(token.token for token in channel.tokens[:8])}" for channel in channels
        )
        return Draft(extract(turns, self._words), f"tokens of {len(positive)} channels", parts)


def _label(channel: Channel) -> str:
    return f"{channel.kind} channel {channel.rank + 1}{'' if channel.skewness >= 0 else ' (negative)'}"


def _other_tail(channel: Channel) -> tuple[ScoredToken, ...]:
    return channel.negative if channel.skewness >= 0 else channel.positive
