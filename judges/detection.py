"""An LLM infers from a description which excerpts activate a neuron, or whether the right tokens are highlighted.

Source: Paulo et al. 2024, arXiv:2410.13928 (detection and fuzzing scoring). Detection asks about whole excerpts.
Fuzzing asks about the tokens in them, so it also measures what detection cannot: where in a text the neuron is active.
Fuzzing shows excerpts with weak activation too if the run keeps them (``Source.QUANTILE``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from pydantic.dataclasses import dataclass

from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Status
from harness.seeds import derive_rng
from harness.validation import METHOD, Count, CountOrZero, FractionOrZero
from judges.accuracy import Floats, auroc, f1
from judges.evidence import activating, marked, shuffled
from judges.numbered import rate
from judges.parts import Predicted
from judges.sampling import Sampler


@dataclasses.dataclass(frozen=True)
class Question:
    """An excerpt, and whether the right answer is yes."""

    text: str
    right: bool


@dataclass(config=METHOD, eq=False)
class _Recognition(Scorer):
    """Asks yes or no about excerpts, several in one prompt."""

    prompt: ClassVar[Prompt]
    role: str = "judge"
    batch: Count = 5
    highest: Count = 1
    context: CountOrZero = 16
    active_share: FractionOrZero = 0.3

    async def answers(self, case: JudgeCase, description: str, texts: Sequence[str]) -> Predicted:
        """Ask about excerpts in random order, and return the answers in the given order.

        Raises:
            Unanswered: if a batch is not answered.
        """
        order = shuffled(range(len(texts)), case, self.prompt.name)
        llm, shown = case.require_llm(), [texts[index] for index in order]

        async def answer(part: str) -> Floats:
            given = await rate(llm, self.prompt, part, shown, highest=self.highest, batch=self.batch, item="excerpt")
            return np.array([answer for _, answer in sorted(zip(order, given, strict=True))])

        return await Predicted.asked(case, description, answer)


@dataclass(config=METHOD, eq=False)
class Detection(_Recognition, Sampler):
    """Scores a description by detection: an LLM that knows only it says which held-out excerpts activate the neuron.

    The value is ``auprc``, the average precision of the answers, estimated for all text of the report split: from 0 to
    1, chance ``base``, the share of active windows. ``f1`` is the F1 score of yes. The excerpts and their weights are
    those of :class:`judges.sampling.Sampler`, the metrics those of :meth:`judges.sampling.Sample.answer_metrics`.
    """

    prompt = Prompt("judges", "prompts/detection.j2")

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Ask about all excerpts; raises ``Unanswered`` if a batch is not answered, or there is only one kind."""
        sample = self.draw(case)
        answers = await self.answers(case, description, sample.excerpts(self.context))
        metrics = sample.answer_metrics(answers, self.highest)
        return Grade(metrics.pop("auprc"), metrics)


@dataclass(config=METHOD, eq=False)
class Fuzzing(_Recognition):
    """Scores a description by fuzzing: an LLM that knows only it says whether the right tokens are highlighted.

    Every excerpt activates the neuron. In half of them the activating tokens are highlighted; in the others the same
    pattern is moved to tokens that do not activate it. The position of the highlighting must not reveal the answer, so
    the peak is at a random position of an excerpt, and a pattern is moved as near as possible to the relative position
    that the peak had in the previous excerpt.

    The value is the balanced accuracy, the mean of ``recall`` and ``specificity``: from 0 to 1, chance 0.5, also if the
    answer is always yes. ``f1`` is the F1 score of yes (2/3 if the answer is always yes and both kinds are equally
    many). ``auc`` (from 0 to 1, chance 0.5) exists if answers are graded (``highest`` above 1).
    """

    prompt = Prompt("judges", "prompts/fuzzing.j2")

    active: Count = 20
    mark_share: FractionOrZero = 0.5
    silent_fraction: FractionOrZero = 0.2

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Ask about all excerpts; raises ``Unanswered`` if a batch is not answered, or only one answer is right."""
        questions = self.questions(case)
        answers = await self.answers(case, description, [question.text for question in questions])
        return recognised([question.right for question in questions], answers.best, self.highest)

    def questions(self, case: JudgeCase) -> list[Question]:
        """Return the windows: every second one with the pattern moved, if there is room for that."""
        questions: list[Question] = []
        depth = 0.0
        for index, item in enumerate(activating(case, self.active, self.active_share)):
            shown = self._shown(case, item)
            positions = [at for at in shown if item.activations[at] >= self.mark_share * item.activation]
            moved = self._moved(item, shown, positions, depth) if index % 2 else None
            depth = _depth(shown, item.peak)
            questions.append(Question(marked(item, shown, moved or positions), moved is None))
        if all(question.right for question in questions):
            raise Unanswered(Status.FAILED, "no activating window of the report split has silent tokens to highlight")
        return questions

    def _shown(self, case: JudgeCase, item: Exemplar) -> range:
        """Return the part of a window that is shown, drawn uniformly from all parts that contain the peak.

        It has ``2 * context + 1`` tokens, but not much more than half the window, so that there are several parts.
        """
        tokens = len(item.tokens)
        length = min(2 * self.context + 1, tokens // 2 + 1)
        first, last = max(0, item.peak - length + 1), min(item.peak, tokens - length)
        draw = derive_rng(case.seed, self.prompt.name, case.neuron, item.window)
        start = int(draw.integers(first, last + 1))
        return range(start, start + length)

    def _moved(self, item: Exemplar, shown: range, positions: list[int], depth: float) -> list[int] | None:
        """Return the positions shifted to silent tokens, with the peak as near as possible to ``depth``, or None."""
        limit = self.silent_fraction * item.activation
        quiet = {at for at in shown if item.activations[at] < limit}
        steps = [step for step in range(-len(shown), len(shown)) if {at + step for at in positions} <= quiet]
        if not steps:
            return None
        step = min(steps, key=lambda step: abs(_depth(shown, item.peak + step) - depth))
        return [at + step for at in positions]


def _depth(shown: range, position: int) -> float:
    """Return how far into an excerpt a position is, from 0 to 1."""
    return (position - shown.start + 0.5) / len(shown)


def recognised(right: Sequence[bool], answers: ArrayLike, highest: int) -> Grade:
    """Return the metrics of answers from 0 to ``highest``; both right answers must occur."""
    labels, said = np.array(right), np.asarray(answers) > highest / 2
    recall, specificity = float(np.mean(said[labels])), float(np.mean(~said[~labels]))
    metrics = {
        "recall": recall,
        "specificity": specificity,
        "f1": f1(labels, said),
        **({"auc": auroc(labels, answers)} if highest > 1 else {}),
    }
    return Grade((recall + specificity) / 2, metrics)
