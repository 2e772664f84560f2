"""An LLM compares two descriptions of one neuron on evidence that no describer saw.

The exact judge prompt and evidence of Avrahamy, Gur-Arieh, Geva 2026 (arXiv:2604.06005) are not public; this protocol
follows chat-model benchmarks (Zheng et al. 2023, arXiv:2306.05685): both orders, a reason before the verdict, ties
allowed.

*Evidence favours describers that use the same kind*: evidence of the input side (held-out text) favours describers that
read text, evidence of the output side (tokens) those that read the output weights. So each verdict records its side,
and results are reported by side as well as together. Text is held out by document, but a neuron has one output vector:
a describer that reads its projection has seen the tokens that the judge is shown. Treat output-side verdicts on such a
describer as an upper bound; on a causal subject, use measured effects on held-out text, or steered texts, which no
describer sees.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.dataclasses import dataclass

from harness.embedding import SentenceEncoder
from harness.llm.asking import ask
from harness.llm.client import LLMClient, Message, PromptLogprobs, Unanswered
from harness.llm.prompts import Prompt, highlighted, quoted
from harness.methods import Comparator, EvidenceBlock, JudgeCase, Judgement
from harness.records import Side, Source, Status, Winner
from harness.spread import spread
from harness.validation import METHOD, Count, CountOrZero, Fraction, FractionOrZero
from judges.evidence import active_and_silent, by_activation, output_tokens, steered_pairs
from judges.sampling import hard_negatives


class PairwiseVerdict(BaseModel):
    """A judge's answer; the reason comes first, so that the verdict follows from it."""

    reason: str = Field(description="one or two sentences that cite the evidence", max_length=600)
    verdict: Literal["A", "B", "tie"]


WINNERS = {"A": Winner.FIRST, "B": Winner.SECOND, "tie": Winner.TIE}
POINTS = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(config=METHOD, eq=False)
class PairwiseLLM(Comparator):
    """Asks an LLM which description fits held-out evidence better: A, B or tie."""

    prompt = Prompt("judges", "prompts/pairwise.j2")

    role: str = "judge"
    side: Side = Side.INPUT
    template: Literal["reason", "criteria"] = "reason"
    windows: Count = 8
    weaker: CountOrZero = 4
    context: CountOrZero = 16
    silent_fraction: Fraction = 0.5
    hard: FractionOrZero = 0.5
    encoder: SentenceEncoder | None = None
    mark_share: FractionOrZero = 0.5
    tokens: CountOrZero = 20
    effects: bool = False
    steered: CountOrZero = 0
    final_norm: bool = True
    preference: bool = False
    min_mass: FractionOrZero = 0.1
    logprobs: Count = 20

    def __post_init__(self) -> None:
        if self.side is not Side.INPUT and not self.tokens and not self.steered:
            raise ValueError("the output side needs tokens or steered texts to show: raise 'tokens' or 'steered'")
        self.needs_logprobs = self.preference
        self.needs_effects = self.effects and self.side is not Side.INPUT and self.tokens > 0
        self.needs_steered = self.steered > 0 and self.side is not Side.INPUT

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Show the evidence and both descriptions, and ask."""
        llm = case.require_llm()
        prompt = self.prompt.render(
            template=self.template,
            side=self.side.value,
            first=case.shown(first),
            second=case.shown(second),
            **self._evidence(case, first, second),
        )
        answer = await ask(llm, prompt, PairwiseVerdict)
        if not self.needs_logprobs:
            return Judgement(WINNERS[answer.verdict], answer.reason)
        preference, mass = await self._preference(llm, prompt, answer.reason)
        return Judgement(WINNERS[answer.verdict], answer.reason, preference, mass)

    def evidence(self, case: JudgeCase, first: str, second: str) -> tuple[EvidenceBlock, ...]:
        """Return the evidence of the prompt."""
        shown = self._evidence(case, first, second)
        blocks: dict[str, list[str]] = {}
        if self.side is not Side.OUTPUT:
            threshold = shown["threshold"]
            marked = [highlighted(one, min(threshold, one.activation), self.context) for one in shown["active"]]
            blocks["Active on these excerpts"] = marked
            blocks["Less active on these, with its strength from 0 to 10"] = [
                f"{strength}: {highlighted(one, one.activation, self.context)}" for one, strength in shown["weaker"]
            ]
            titles = {"silent": "Hardly or not at all active", "hard": "Neither on these, which look alike"}
            for key, title in titles.items():
                blocks[title] = [highlighted(one, threshold, self.context) for one in shown[key]]
        if self.side is not Side.INPUT:
            blocks["Makes the model more likely to say"] = [quoted(one.token) for one in shown["promoted"]]
            blocks["Makes it less likely to say"] = [quoted(one.token) for one in shown["suppressed"]]
            blocks["Written by the model without the neuron held active, and with it"] = [
                f"{quoted(without.prompt + without.text)} | {quoted(held.prompt + held.text)}"
                for held, without in shown["steered"]
            ]
        return tuple(EvidenceBlock(title, tuple(texts)) for title, texts in blocks.items() if texts)

    def _evidence(self, case: JudgeCase, first: str, second: str) -> dict[str, Any]:
        return (self._input(case, first, second) if self.side is not Side.OUTPUT else {}) | (
            self._output(case) if self.side is not Side.INPUT else {}
        )

    def _input(self, case: JudgeCase, *descriptions: str) -> dict[str, Any]:
        active, quiet = active_and_silent(case, self.windows, self.silent_fraction, None)
        count = round(self.hard * min(self.windows, len(quiet)))
        hard = hard_negatives(case, self.encoder, active, quiet, descriptions, count, self.context)
        known = {item.window for item in hard}
        silent = [item for item in quiet if item.window not in known][: self.windows - len(hard)]
        highest = active[0].activation
        seen = {item.window for item in active}
        quantiles = by_activation(case, Source.QUANTILE)
        weaker = spread([item for item in quantiles if item.window not in seen and item.activation > 0], self.weaker)
        return {
            "active": active,
            "weaker": [(item, math.floor(10 * item.activation / highest)) for item in weaker],
            "silent": silent,
            "hard": hard,
            "threshold": self.mark_share * highest,
            "context": self.context,
        }

    def _output(self, case: JudgeCase) -> dict[str, Any]:
        shown: dict[str, Any] = {"promoted": (), "suppressed": (), "steered": ()}
        if self.tokens > 0:
            tails = output_tokens(case, self.tokens, measured=self.needs_effects, final_norm=self.final_norm)
            shown["promoted"], shown["suppressed"] = tails
        if self.needs_steered:
            shown["steered"] = steered_pairs(case, self.steered)
        return shown

    async def _preference(self, llm: LLMClient, prompt: list[Message], reason: str) -> tuple[float | None, float]:
        """Return the soft preference for the first description, and the probability on the verdicts.

        The prompt repeats the judge's answer up to the verdict, and the log-probabilities give the model's distribution
        there. A grammar that constrains an answer would have renormalised this distribution.
        """
        opened = json.dumps({"reason": quoted(reason)}, ensure_ascii=False)[:-1] + ', "verdict": "'
        # The log-probabilities are those of a prompt, so it must contain a verdict; which one does not matter.
        found = await llm.token_logprobs([*prompt, Message("assistant", f"{opened}A")], top=self.logprobs)
        if found.status is not Status.OK:
            raise Unanswered(found.status, found.detail)
        shares = verdict_shares(found, '"verdict": "', "A")
        if shares is None:
            raise Unanswered(
                Status.FAILED, "the judge's chat template changes an unfinished answer: set preference=false"
            )
        mass = sum(shares.values())
        if mass < self.min_mass:
            return None, round(mass, 6)
        preferred = sum(share * POINTS[verdict] for verdict, share in shares.items()) / mass
        return round(preferred, 6), round(min(mass, 1.0), 6)


def verdict_shares(found: PromptLogprobs, before: str, written: str) -> dict[str, float] | None:
    """Return the probability of each verdict at the verdict that ends a prompt, or None if the prompt has none.

    A token counts for a verdict if it is a prefix of it (``t`` and ``tie`` for a tie), or the whole of it and more
    (``A"``). If the tokenizer joins the verdict with the text before it (``"A``), the alternatives must start with the
    same text.

    Args:
        found: the prompt's tokens with the log-probabilities of their alternatives.
        before: the text before the verdict.
        written: the verdict in the prompt.
    """
    text = "".join(token.text for token in found.tokens)
    start = text.rfind(before + written)
    if start < 0:
        return None
    start += len(before)
    offset = 0
    for token in found.tokens:
        if offset <= start < offset + len(token.text):
            break
        offset += len(token.text)
    lead = token.text[: start - offset]
    shares = dict.fromkeys(WINNERS, 0.0)
    for alternative, logprob in token.alternatives.items():
        said = alternative.removeprefix(lead)
        if not said or not alternative.startswith(lead):
            continue
        for verdict in shares:
            if verdict.startswith(said) or said.startswith(f'{verdict}"'):
                shares[verdict] += math.exp(logprob)
    return shares
