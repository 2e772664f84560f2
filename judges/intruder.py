"""An LLM picks the one excerpt that is not like the others, knowing a description of the neuron.

Source: Paulo et al. 2024, arXiv:2410.13928 (intruder scoring), who ask it without any description, to learn whether a
neuron can be described at all. Here it is to grade a description, so the LLM is told it; and unless asked otherwise the
excerpt to find is the single activating one among silent ones, which have nothing in common: only the description
tells it. With ``odd: silent`` the excerpts are as published, and what they give away without a description is measured
beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.checks import require, require_count
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Status
from harness.seeds import derive_rng
from judges.evidence import excerpt
from judges.excerpts import Excerpts
from judges.numbered import ask_numbered, levels


@dataclass(frozen=True)
class Round:
    """Excerpts in the order in which the LLM sees them, and the number of the odd one, from 1."""

    texts: tuple[str, ...]
    odd: int


class Intruder(Scorer):
    """Scores a description by how often an LLM that knows it finds the one odd excerpt among ``choices``.

    The value is the share of rounds in which it does: from 0 to 1, chance 1 / ``choices``. With ``baseline`` the same
    is asked without the description: ``without`` is that share, and ``gain`` the value less it (from -1 to 1, 0 where
    the description tells nothing that the excerpts do not).

    Args:
        role: the LLM role that judges.
        rounds: how often it is asked, at most: each activating excerpt is the odd one once.
        choices: excerpts in one round.
        odd: which excerpt is the odd one: ``active`` among silent ones, or ``silent`` among activating ones.
        baseline: whether the same is asked without the description too; paid for once for all descriptions.
        context: tokens on either side of an excerpt's peak.
        active_share: a window activates the neuron if its peak reaches this share of the highest one.
        silent_fraction: a random window is silent if its peak is below this share of the lowest activating one shown.
    """

    prompt = Prompt("judges", "prompts/intruder.j2")

    def __init__(
        self,
        role: str = "judge",
        rounds: int = 10,
        choices: int = 5,
        odd: str = "active",
        baseline: bool = False,
        context: int = 16,
        active_share: float = 0.3,
        silent_fraction: float = 0.5,
    ) -> None:
        require_count("rounds", rounds, 1)
        require_count("choices", choices, 2)
        require(odd in ("active", "silent"), "odd", odd, "'active' or 'silent'")
        self.role, self._choices, self._odd, self._baseline = role, choices, odd, baseline
        self._rounds = rounds
        self._excerpts = Excerpts(max(rounds, choices), None, context, active_share, silent_fraction)

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Play all rounds; raises ``Unanswered`` if one is not answered, or there are too few excerpts."""
        llm, rounds = case.require_llm(), self.rounds(case)
        told = [description, None] if self._baseline else [description]
        answers = await all_answers(self._ask(llm, given, one) for given in told for one in rounds)
        found = np.array(answers).reshape(len(told), len(rounds)) == [one.odd for one in rounds]
        value, *without = (float(share) for share in found.mean(axis=1))
        return Grade(value, {"without": without[0], "gain": value - without[0]} if without else {})

    def rounds(self, case: JudgeCase) -> list[Round]:
        """Return what is asked: the same for every description of a neuron.

        Raises:
            Unanswered: if there are too few excerpts of either kind.
        """
        active, silent = self._excerpts.draw(case)
        odd, others = (active, silent) if self._odd == "active" else (silent, active)
        if len(others) < self._choices - 1:
            kind = "silent" if others is silent else "activating"
            raise Unanswered(
                Status.FAILED, f"a round needs {self._choices - 1} {kind} excerpts, the report split has {len(others)}"
            )
        return [self._round(case, number, item, others) for number, item in enumerate(odd[: self._rounds])]

    def _round(self, case: JudgeCase, number: int, odd: Exemplar, others: list[Exemplar]) -> Round:
        rng = derive_rng(case.seed, self.prompt.name, case.neuron, number)
        shown = [others[place] for place in rng.choice(len(others), self._choices - 1, replace=False)]
        place = int(rng.integers(self._choices))
        shown.insert(place, odd)
        return Round(tuple(excerpt(item, self._excerpts.context) for item in shown), place + 1)

    async def _ask(self, llm: LLMClient, description: str | None, one: Round) -> int:
        prompt = self.prompt.render(description=description, texts=one.texts, odd=self._odd)
        (choice,) = await ask_numbered(llm, prompt, "choice", 1, levels(self._choices, 1))
        return int(choice)
