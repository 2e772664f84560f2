"""Descriptions from hypotheses that the explainer tests on the subject itself.

Source: Han et al. 2025, arXiv:2511.20820 (SAGE: the explainer proposes an explanation, designs experiments, sees the
activations and refines it). There, agents with different prompts share the work and several explanations are kept.
Here, one prompt asks for one hypothesis with its test sentences. A description costs at most ``rounds`` + 1 calls.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, create_model

from describers.answers import ExplainerDescriber, Explanation, explanation
from describers.evidence import shares, size_of, total
from describers.windows import activating_windows, level, marked
from harness.llm.asking import ask
from harness.llm.degenerate import checked
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft
from harness.records import EvidenceSize
from harness.validation import Count, Fraction, validated

_SENTENCE = Field(min_length=1, max_length=300)
#: Tokens reserved for a sentence with its name, and for the hypothesis and the JSON around them.
_SENTENCE_TOKENS, _FRAME_TOKENS = 80, 256


@dataclass(frozen=True)
class Tested:
    """A sentence that tests a hypothesis.

    Attributes:
        text: the sentence.
        activating: whether it should activate the neuron if the hypothesis is right.
        level: the neuron's peak on it, from 0 to 10 relative to the windows shown.
        activation: the same as an activation.
        tokens: number of its tokens.
    """

    text: str
    activating: bool
    level: int
    activation: float
    tokens: int


@dataclass(frozen=True)
class Trial:
    """A hypothesis and the sentences that tested it."""

    hypothesis: str
    sentences: tuple[Tested, ...]

    @property
    def confirmed(self) -> bool:
        """Whether every sentence that should activate the neuron activates it more than all the others."""
        fitting = [one.activation for one in self.sentences if one.activating]
        others = [one.activation for one in self.sentences if not one.activating]
        return bool(fitting and others) and min(fitting) > max(0.0, *others)


@functools.cache
def experiment(words: int, count: int) -> type[Explanation]:
    """Return the schema of a hypothesis of ``words`` words with ``count`` test sentences of each kind."""
    names = [f"{kind}_{number}" for kind in ("activating", "silent") for number in range(1, count + 1)]
    fields: dict[str, Any] = dict.fromkeys(names, (str, _SENTENCE))
    return create_model("Experiment", __base__=explanation(words), **fields)


class Sage(ExplainerDescriber):
    """Describes a neuron by a hypothesis that it tests on sentences of its own, and revises where they contradict it.

    It ends as soon as a hypothesis is confirmed. Half of the evidence budget is for windows of the explain split, the
    other half for the sentences, in equal parts for each round. Without a reader, as in the check of the explainer, it
    describes the windows without tests.
    """

    needs_exemplars = True
    prompt = Prompt("describers", "prompts/sage.j2")

    @validated
    def __init__(
        self,
        exemplars: Count = 10,
        rounds: Count = 3,
        sentences: Count = 3,
        mark_share: Fraction = 0.3,
        target_words: Count = 30,
    ) -> None:
        super().__init__(target_words, "llm")
        self._exemplars, self._rounds, self._sentences, self._mark_share = exemplars, rounds, sentences, mark_share

    async def describe(self, case: DescriberCase) -> Draft:
        """Propose, test and revise hypotheses."""
        llm = case.require_llm()
        room, sentence_room = shares(case.budget, 2)
        shown = activating_windows(case, "top", self._exemplars, 1.0, room)
        excerpts, highest = tuple(marked(shown, self._mark_share)), shown[0].activation
        rooms = shares(sentence_room, self._rounds)
        render = functools.partial(self.prompt.render, excerpts=excerpts, words=self.target_words)
        shown_first = render(trials=(), count=0)  # the explainer may repeat its own hypotheses, but not this
        longest = max(llm.sampling.max_tokens, 2 * self._sentences * _SENTENCE_TOKENS + _FRAME_TOKENS)
        sampling = dataclasses.replace(llm.sampling, max_tokens=longest)
        trials: list[Trial] = []
        for left in rooms if case.reader is not None else ():
            messages = render(trials=tuple(trials), count=self._sentences)
            asked = experiment(self.target_words, self._sentences)
            answer = (await ask(llm, messages, asked, sampling=sampling)).model_dump()
            texts = [answer[f"{kind}_{one + 1}"] for kind in ("activating", "silent") for one in range(self._sentences)]
            trials.append(Trial(answer["description"], await self._test(case, texts, highest, left)))
            if trials[-1].confirmed:
                break
        size = total([size_of(shown), *(_size(trial.sentences) for trial in trials)])
        confirmed = sum(trial.confirmed for trial in trials)
        tested = f"{confirmed} of {len(trials)} hypotheses confirmed" if trials else "no tests"
        detail = f"from {len(shown)} windows of the explain split; {tested}"
        steps = tuple(trial.hypothesis for trial in trials)
        if confirmed:
            return Draft(checked(trials[-1].hypothesis, shown_first), detail, steps, size)
        last = await ask(llm, render(trials=tuple(trials), count=0), explanation(self.target_words))
        return Draft(checked(last.description, shown_first), detail, steps, size)

    async def _test(
        self, case: DescriberCase, texts: Sequence[str], highest: float, room: int | None
    ) -> tuple[Tested, ...]:
        """Return the sentences that fit into ``room`` tokens, one of each kind in turn, with their activations."""
        found = []
        for number, read in enumerate(await case.read(texts)):
            if read.activations:
                found.append(
                    Tested(
                        text=read.text,
                        activating=number < self._sentences,
                        level=level(read.activation, highest),
                        activation=read.activation,
                        tokens=len(read.activations),
                    )
                )
        kinds = [[one for one in found if one.activating is activating] for activating in (True, False)]
        turns = [group[place] for place in range(self._sentences) for group in kinds if place < len(group)]
        kept: list[Tested] = []
        for one in turns:
            if room is None or sum(other.tokens for other in kept) + one.tokens <= room:
                kept.append(one)
        return tuple(kept)


def _size(sentences: Sequence[Tested]) -> EvidenceSize:
    return EvidenceSize(len(sentences), sum(one.tokens for one in sentences))
