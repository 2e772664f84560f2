"""An LLM that knows a description picks the one excerpt that differs from the others.

Source: Paulo et al. 2024, arXiv:2410.13928 (intruder scoring). They ask without a description, to learn whether a
neuron can be described at all. Here the LLM gets the description, because the task is to grade it. By default the
intruder is the only activating excerpt among silent ones, which have nothing in common: only the description
identifies it. With ``odd: silent`` the excerpts are as published, and ``baseline`` measures what they reveal without a
description.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from harness.llm.asking import all_answers
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Status
from harness.seeds import derive_rng
from harness.validation import METHOD, Count, CountOrZero, Fraction, FractionOrZero
from judges.evidence import activating, excerpt, silent
from judges.numbered import choose

#: Excerpts in the order that the LLM sees, and the number of the intruder, from 1.
Round = tuple[list[str], int]


@dataclass(config=METHOD, eq=False)
class Intruder(Scorer):
    """Scores a description by how often an LLM that knows it finds the intruder among ``choices`` excerpts.

    The value is the share of rounds with the right answer: from 0 to 1, chance 1 / ``choices``. With ``baseline``,
    ``without`` is the share without the description, and ``gain`` is the difference: from -1 to 1, 0 if the description
    adds nothing to the excerpts.
    """

    prompt = Prompt("judges", "prompts/intruder.j2")

    role: str = "judge"
    rounds: Count = 10
    choices: Annotated[int, Field(ge=2)] = 5
    odd: Literal["active", "silent"] = "active"
    baseline: bool = False
    context: CountOrZero = 16
    active_share: FractionOrZero = 0.3
    silent_fraction: Fraction = 0.5

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Ask all rounds; raises ``Unanswered`` if one is not answered, or there are too few excerpts."""
        llm, rounds = case.require_llm(), self.questions(case)
        shown = case.shown(description)
        given = [shown, None] if self.baseline else [shown]
        answers = await all_answers(
            choose(llm, self.prompt.render(description=text, texts=texts, odd=self.odd), self.choices)
            for text in given
            for texts, _ in rounds
        )
        right = np.array(answers).reshape(len(given), len(rounds)) == [odd for _, odd in rounds]
        value, *without = (float(share) for share in right.mean(axis=1))
        return Grade(value, {"without": without[0], "gain": value - without[0]} if without else {})

    def questions(self, case: JudgeCase) -> list[Round]:
        """Return the questions, which are the same for every description of a neuron.

        Raises:
            Unanswered: if there are too few excerpts of either kind.
        """
        active = activating(case, max(self.rounds, self.choices), self.active_share)
        quiet = silent(case, active, self.silent_fraction, None)
        odd, others = (active, quiet) if self.odd == "active" else (quiet, active)
        if len(others) < self.choices - 1:
            kind = "silent" if others is quiet else "activating"
            raise Unanswered(
                Status.FAILED, f"a round needs {self.choices - 1} {kind} excerpts, the report split has {len(others)}"
            )
        rounds: list[Round] = []
        for number, intruder in enumerate(odd[: self.rounds]):
            rng = derive_rng(case.seed, self.prompt.name, case.neuron, number)
            shown = [others[index] for index in rng.choice(len(others), self.choices - 1, replace=False)]
            position = int(rng.integers(self.choices))
            shown.insert(position, intruder)
            rounds.append(([excerpt(item, self.context) for item in shown], position + 1))
        return rounds
