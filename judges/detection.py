"""An LLM tells from a description which excerpts activate a neuron, or whether the right tokens are highlighted.

Source: Paulo et al. 2024, arXiv:2410.13928 (detection and fuzzing scoring). Detection asks about whole excerpts;
fuzzing asks about the tokens in them, so that it also grades what detection cannot see: where in a text the neuron is
active. Excerpts that activate it little stand among them as well, where the run keeps such (``Source.QUANTILE``).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

from harness.checks import require_count
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Status
from harness.seeds import derive_rng
from judges.evidence import excerpt
from judges.excerpts import Excerpts, marked, shuffled
from judges.numbered import ask_numbered, batches, levels


@dataclass(frozen=True)
class Question:
    """An excerpt, and whether the right answer is yes."""

    text: str
    right: bool


class _Recognition(Scorer):
    """Asks yes or no about excerpts, several in one prompt, and measures how often the answers are right."""

    prompt: Prompt

    def __init__(self, role: str, excerpts: Excerpts, batch: int, highest: int) -> None:
        self.role, self._excerpts, self._batch, self._highest = role, excerpts, batch, highest
        for name, count in (("active", excerpts.active), ("batch", batch), ("highest", highest)):
            require_count(name, count, 1)

    @abstractmethod
    def questions(self, case: JudgeCase) -> list[Question]:
        """Return what is asked: the same for every description of a neuron."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Ask about all excerpts; raises ``Unanswered`` if one batch is not answered, or only one answer is right."""
        llm = case.require_llm()
        asked = shuffled(self.questions(case), case, self.prompt.name)
        answers = await all_answers(
            self._ask(llm, description, [asked[place].text for place in places])
            for places in batches(len(asked), self._batch)
        )
        return recognised(
            [question.right for question in asked], [level for some in answers for level in some], self._highest
        )

    async def _ask(self, llm: LLMClient, description: str, texts: list[str]) -> list[int]:
        prompt = self.prompt.render(description=description, texts=texts, highest=self._highest)
        return await ask_numbered(llm, prompt, "excerpt", len(texts), levels(self._highest))


class Detection(_Recognition):
    """Scores a description by detection: an LLM that knows it alone says which held-out excerpts activate the neuron.

    The value is the balanced accuracy, the mean of ``recall`` (of activating excerpts) and ``specificity`` (of silent
    ones): from 0 to 1, chance 0.5, also for who always says yes. ``f1`` is that of yes: from 0 to 1, and 2/3 for who
    always says yes if both kinds are equally many. ``auc`` (0 to 1, chance 0.5) is there if answers are graded.

    Args:
        role: the LLM role that judges.
        active: activating excerpts, spread evenly over the activations of the top and quantile windows.
        silent: silent excerpts, at most.
        batch: excerpts in one prompt.
        highest: 1: the LLM says 0 or 1; more: it says from 0 to so many how sure it is, and yes is above the middle.
        context: tokens on either side of an excerpt's peak.
        active_share: a window activates the neuron if its peak reaches this share of the highest one.
        silent_fraction: a random window is silent if its peak is below this share of the lowest activating one shown.
    """

    prompt = Prompt("judges", "prompts/detection.j2")

    def __init__(
        self,
        role: str = "judge",
        active: int = 10,
        silent: int = 10,
        batch: int = 5,
        highest: int = 1,
        context: int = 16,
        active_share: float = 0.3,
        silent_fraction: float = 0.5,
    ) -> None:
        super().__init__(role, Excerpts(active, silent, context, active_share, silent_fraction), batch, highest)

    def questions(self, case: JudgeCase) -> list[Question]:
        """Return the activating and the silent excerpts."""
        active, silent = self._excerpts.draw(case)
        return [
            Question(excerpt(item, self._excerpts.context), right)
            for items, right in ((active, True), (silent, False))
            for item in items
        ]


class Fuzzing(_Recognition):
    """Scores a description by fuzzing: an LLM that knows it alone says whether the right tokens are highlighted.

    Every excerpt activates the neuron. In half of them the tokens that do are highlighted; in the others the same
    pattern stands over tokens that do not. Where in the text the highlighting stands says nothing: the peak lies
    anywhere in an excerpt, by a draw of the window's, and a moved pattern as near as can be to where the peak lay in
    the excerpt before. Figures, ranges and chance as those of :class:`Detection`.

    Args:
        role: the LLM role that judges.
        active: excerpts, spread evenly over the activations of the top and quantile windows.
        batch: excerpts in one prompt.
        highest: 1: the LLM says 0 or 1; more: it says from 0 to so many how sure it is, and yes is above the middle.
        context: an excerpt is twice as many tokens and one, but never much more than half a window, so that it can be
            cut in several ways.
        active_share: a window activates the neuron if its peak reaches this share of the highest one.
        mark_share: tokens are highlighted from this share of their window's peak on.
        silent_fraction: a pattern is moved only to tokens that stay below this share of their window's peak.
    """

    prompt = Prompt("judges", "prompts/fuzzing.j2")

    def __init__(
        self,
        role: str = "judge",
        active: int = 20,
        batch: int = 5,
        highest: int = 1,
        context: int = 16,
        active_share: float = 0.3,
        mark_share: float = 0.5,
        silent_fraction: float = 0.2,
    ) -> None:
        super().__init__(role, Excerpts(active, 0, context, active_share, silent_fraction), batch, highest)
        self._mark_share = mark_share

    def questions(self, case: JudgeCase) -> list[Question]:
        """Return every other window as it is and the others, if they have room for it, with the pattern moved."""
        asked: list[Question] = []
        depth = 0.0
        for place, item in enumerate(self._excerpts.activating(case)):
            shown = self._shown(case, item)
            places = [at for at in shown if item.activations[at] >= self._mark_share * item.activation]
            moved = self._moved(item, shown, places, depth) if place % 2 else None
            depth = _depth(shown, item.peak)
            asked.append(Question(marked(item, shown, moved or places), moved is None))
        if all(question.right for question in asked):
            raise Unanswered(Status.FAILED, "no activating window of the report split has silent tokens to highlight")
        return asked

    def _shown(self, case: JudgeCase, item: Exemplar) -> range:
        """Return the part of a window that is shown: any of its length in which the peak is, all equally likely."""
        tokens = len(item.tokens)
        length = min(2 * self._excerpts.context + 1, tokens // 2 + 1)
        first, last = max(0, item.peak - length + 1), min(item.peak, tokens - length)
        draw = derive_rng(case.seed, self.prompt.name, case.neuron, item.window)
        start = int(draw.integers(first, last + 1))
        return range(start, start + length)

    def _moved(self, item: Exemplar, shown: range, places: list[int], depth: float) -> list[int] | None:
        """Return the places moved to where the neuron is silent, or none if there is no such place.

        Of several such places that is chosen which brings the peak nearest to a depth.
        """
        limit = self._excerpts.silent_fraction * item.activation
        silent = {place for place in shown if item.activations[place] < limit}
        ways = [step for step in range(-len(shown), len(shown)) if {at + step for at in places} <= silent]
        if not ways:
            return None
        step = min(ways, key=lambda step: abs(_depth(shown, item.peak + step) - depth))
        return [place + step for place in places]


def _depth(shown: range, place: int) -> float:
    """Return how far into an excerpt a place is, from 0 to 1."""
    return (place - shown.start + 0.5) / len(shown)


def recognised(right: list[bool], answers: list[int], highest: int) -> Grade:
    """Return the figures of answers from 0 to ``highest`` to questions of which both kinds occur."""
    labels, said = np.array(right), np.array(answers) > highest / 2
    recall, specificity = float(np.mean(said[labels])), float(np.mean(~said[~labels]))
    metrics = {
        "recall": recall,
        "specificity": specificity,
        "f1": float(f1_score(labels, said, zero_division=0)),
        **({"auc": float(roc_auc_score(labels, answers))} if highest > 1 else {}),
    }
    return Grade((recall + specificity) / 2, metrics)
