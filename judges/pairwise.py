"""An LLM compares two descriptions of one neuron on text that no describer saw.

The exact judge prompt and evidence of Avrahamy, Gur-Arieh, Geva 2026 (arXiv:2604.06005) are not public; this protocol
follows chat-model benchmarks: both orders, a reason before the verdict, ties allowed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from harness.llm.asking import ask
from harness.llm.prompts import Prompt
from harness.methods import Comparator, JudgeCase, Judgement
from harness.records import Winner
from judges.evidence import active_and_silent


class PairwiseVerdict(BaseModel):
    """A judge's answer; the reason comes first, so that the verdict follows from it."""

    reason: str = Field(description="one or two sentences that cite the excerpts", max_length=600)
    verdict: Literal["A", "B", "tie"]


WINNERS = {"A": Winner.FIRST, "B": Winner.SECOND, "tie": Winner.TIE}


class PairwiseLLM(Comparator):
    """Asks which description fits held-out evidence better, A, B or tie.

    Args:
        role: the LLM role that judges.
        windows: activating excerpts shown, and at most so many silent ones, all of the report split.
        context: tokens on either side of an excerpt's peak.
        silent_share: a random window is silent if its peak is below this share of the lowest activating one's.
        mark_share: tokens are marked as activating from this share of the highest shown activation on.
    """

    prompt = Prompt("judges", "prompts/pairwise.j2")

    def __init__(
        self,
        role: str = "judge",
        windows: int = 8,
        context: int = 16,
        silent_share: float = 0.5,
        mark_share: float = 0.5,
    ) -> None:
        self.role = role
        self._windows, self._context, self._silent_share, self._mark = windows, context, silent_share, mark_share

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Show the evidence and both descriptions, and ask."""
        active, silent = active_and_silent(case, self._windows, self._silent_share)
        prompt = self.prompt.render(
            active=active,
            silent=silent,
            threshold=self._mark * active[0].activation,
            context=self._context,
            first=first,
            second=second,
        )
        answer = await ask(case.asked(), prompt, PairwiseVerdict)
        return Judgement(WINNERS[answer.verdict], answer.reason)
