"""An LLM compares two descriptions of one neuron on evidence that no describer saw.

The exact judge prompt and evidence of Avrahamy, Gur-Arieh, Geva 2026 (arXiv:2604.06005) are not public; this protocol
follows chat-model benchmarks (Zheng et al. 2023, arXiv:2306.05685): both orders, a reason before the verdict, ties
allowed.

*Evidence favours whoever uses the same kind.* On the input side (held-out text) that is whoever describes from text;
on the output side (tokens) whoever describes from the output weights. So each verdict says which side it was given on,
and figures stand apart by side as well as together. There is one asymmetry that no split mends: text is held out by
document, but a neuron has one output vector, and a describer that reads its projection has seen the very tokens that
the judge is shown. Read output-side verdicts on such a describer as an upper bound; where the subject is causal, take
measured effects on held-out text, or steered texts, which no describer sees.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import BaseModel, Field

from harness.errors import HarnessError
from harness.llm.asking import ask
from harness.llm.client import LLMClient, Message, PromptLogprobs, Unanswered
from harness.llm.prompts import Prompt, quoted
from harness.methods import Comparator, JudgeCase, Judgement
from harness.records import Side, Status, Winner
from judges.evidence import active_and_silent, over_the_range, steered_pairs, written


class PairwiseVerdict(BaseModel):
    """A judge's answer; the reason comes first, so that the verdict follows from it."""

    reason: str = Field(description="one or two sentences that cite the evidence", max_length=600)
    verdict: Literal["A", "B", "tie"]


WINNERS = {"A": Winner.FIRST, "B": Winner.SECOND, "tie": Winner.TIE}
POINTS = {"A": 1.0, "B": 0.0, "tie": 0.5}


class PairwiseLLM(Comparator):
    """Asks which description fits held-out evidence better, A, B or tie.

    Args:
        role: the LLM role that judges.
        side: evidence of which side: ``input`` (excerpts over the range of activations, and silent ones), ``output``
            (tokens that the output weights promote and suppress most) or ``both``.
        windows: most active excerpts shown, and at most so many silent ones, all of the report split.
        weaker: excerpts of weaker activation shown, evenly over the range of those that the run drew by quantile; none
            are shown if it drew none.
        context: tokens on either side of an excerpt's peak.
        silent_fraction: a random window is silent if its peak is below this share of the lowest activating one's.
        mark_share: tokens are marked as activating from this share of the highest shown activation on.
        tokens: tokens shown that the neuron promotes, and that it suppresses; 0 for none.
        effects: whether these are measured, by clamping the neuron over text of the report split, which needs a causal
            subject, or those of its output weights' projection.
        steered: texts shown that a causal subject wrote with the neuron held active, each beside the one without.
        final_norm: whether the final norm is applied to the output weights first, where the model has one.
        preference: whether to ask, in a second request, for the log-probabilities of the verdicts given the reason:
            the judge's soft preference. The server must give prompt log-probabilities, as vLLM does.
        min_mass: below this probability on the verdicts there is no soft preference; the mass is told all the same.
        logprobs: alternatives asked for at the verdict.
    """

    prompt = Prompt("judges", "prompts/pairwise.j2")

    def __init__(
        self,
        role: str = "judge",
        side: str = "input",
        windows: int = 8,
        weaker: int = 4,
        context: int = 16,
        silent_fraction: float = 0.5,
        mark_share: float = 0.5,
        tokens: int = 20,
        effects: bool = False,
        steered: int = 0,
        final_norm: bool = True,
        preference: bool = False,
        min_mass: float = 0.1,
        logprobs: int = 20,
    ) -> None:
        if side not in list(Side):
            raise HarnessError(f"side is {side!r}; choose input, output or both")
        self.role, self.side, self.needs_logprobs = role, Side(side), preference
        self._windows, self._weaker, self._context = windows, weaker, context
        self._silent_fraction, self._mark = silent_fraction, mark_share
        self._tokens, self._steered, self._final_norm = tokens, steered, final_norm
        if self.side is not Side.INPUT and tokens < 1 and steered < 1:
            raise HarnessError("of the output side neither tokens nor steered texts are to be shown: raise one of them")
        self.needs_effects = effects and self.side is not Side.INPUT and tokens > 0
        self.needs_steered = steered > 0 and self.side is not Side.INPUT
        self._min_mass, self._logprobs = min_mass, logprobs

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Show the evidence and both descriptions, and ask."""
        llm = case.require_llm()
        evidence = (self._input(case) if self.side is not Side.OUTPUT else {}) | (
            self._output(case) if self.side is not Side.INPUT else {}
        )
        prompt = self.prompt.render(side=self.side.value, first=first, second=second, **evidence)
        answer = await ask(llm, prompt, PairwiseVerdict)
        if not self.needs_logprobs:
            return Judgement(WINNERS[answer.verdict], answer.reason)
        preference, mass = await self._preference(llm, prompt, answer.reason)
        return Judgement(WINNERS[answer.verdict], answer.reason, preference, mass)

    def _input(self, case: JudgeCase) -> dict[str, Any]:
        active, silent = active_and_silent(case, self._windows, self._silent_fraction)
        highest = active[0].activation
        weaker = over_the_range(case, self._weaker, without=active)
        return {
            "active": active,
            "weaker": [(item, math.floor(10 * item.activation / highest)) for item in weaker],
            "silent": silent,
            "threshold": self._mark * highest,
            "context": self._context,
        }

    def _output(self, case: JudgeCase) -> dict[str, Any]:
        shown: dict[str, Any] = {"promoted": (), "suppressed": (), "steered": ()}
        if self._tokens > 0:
            ends = written(case, self._tokens, measured=self.needs_effects, final_norm=self._final_norm)
            shown["promoted"], shown["suppressed"] = ends
        if self.needs_steered:
            shown["steered"] = steered_pairs(case, self._steered)
        return shown

    async def _preference(self, llm: LLMClient, prompt: list[Message], reason: str) -> tuple[float | None, float]:
        """Return the soft preference for the first, and the probability on the verdicts.

        The answer is laid out again as the judge wrote it, up to the verdict, and the model is asked what it expects
        there. This is the model's own distribution, which a grammar that constrains an answer would have renormalised.
        """
        opened = json.dumps({"reason": quoted(reason)}, ensure_ascii=False)[:-1] + ', "verdict": "'
        # Some verdict has to stand there, for the log-probabilities are those of a prompt; which one changes nothing.
        found = await llm.token_logprobs([*prompt, Message("assistant", f"{opened}A")], top=self._logprobs)
        if found.status is not Status.OK:
            raise Unanswered(found.status, found.detail)
        shares = verdict_shares(found, '"verdict": "', "A")
        if shares is None:
            raise Unanswered(
                Status.FAILED, "the judge's chat template does not keep an opened answer as it is: set preference=false"
            )
        mass = sum(shares.values())
        if mass < self._min_mass:
            return None, round(mass, 6)
        preferred = sum(share * POINTS[verdict] for verdict, share in shares.items()) / mass
        return round(preferred, 6), round(min(mass, 1.0), 6)


def verdict_shares(found: PromptLogprobs, before: str, written: str) -> dict[str, float] | None:
    """Return the probability of each verdict where one stands at the end of a prompt, or none if none stands there.

    A token counts for a verdict if it begins it (``t`` and ``tie`` for a tie), or is all of it and more (``A"``). If
    the tokenizer joined what stands before the verdict to it (``"A``), the alternatives must begin in the same way.

    Args:
        found: the prompt's tokens with their expectations.
        before: what stands before the verdict.
        written: the verdict that stands there.
    """
    text = "".join(token.text for token in found.tokens)
    start = text.rfind(before + written)
    if start < 0:
        return None
    start += len(before)
    at = 0
    for token in found.tokens:
        if at <= start < at + len(token.text):
            lead = token.text[: start - at]
            break
        at += len(token.text)
    shares = dict.fromkeys(WINNERS, 0.0)
    for alternative, logprob in token.alternatives.items():
        if alternative.startswith(lead) and (said := alternative[len(lead) :]):
            for verdict in shares:
                if verdict.startswith(said) or said.startswith(f'{verdict}"'):
                    shares[verdict] += math.exp(logprob)
    return shares
