"""Does the text that the subject writes while the neuron is steered fit the description?

Sources: Gur-Arieh et al. 2025, arXiv:2501.08319 (output-based evaluation) and Puri et al. 2025 (FADE: faithfulness).
The texts are generated once for each neuron, prompt and strength (``steering.texts``) and shared by all scorers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.errors import HarnessError
from harness.llm.asking import all_answers
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Neuron, Status, SteeredText
from harness.seeds import derive_rng
from harness.spread import spread
from harness.validation import Count, validated
from judges.evidence import shuffled
from judges.numbered import choose, rate

TextsByStrength = dict[float, list[SteeredText]]


#: A strength, three sets of texts at it, and the number, from 1, of the neuron's set.
Choice = tuple[float, list[list[str]], int]


class OutputBased(Scorer):
    """Scores a description by whether an LLM finds the neuron's steered texts among those of two other neurons.

    A question shows three sets of texts, from the same prompts at the same strength: one of this neuron and one each of
    two others (the same neuron at its other sign is not another one). The value is the share of questions with the
    right answer, over all strengths and rounds: from 0 to 1, chance 1/3. ``strength_X`` is the share at strength X.
    """

    needs_steered = True
    prompt = Prompt("judges", "prompts/output_based.j2")

    @validated
    def __init__(self, role: str = "judge", rounds: Count = 1, texts: Count = 5) -> None:
        self.role, self._rounds, self._texts = role, rounds, texts

    def check(self, neurons: Sequence[Neuron]) -> None:
        """Check that there are three neurons."""
        if len({neuron.unsigned for neuron in neurons}) < 3:
            raise HarnessError(
                "each question shows texts of two other neurons: choose three or more (neurons.per_layer=3), or "
                "leave it out"
            )

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Ask at every strength; raises ``Unanswered`` if a question is not answered, or other neurons are missing."""
        llm, choices = case.require_llm(), self.choices(case)
        answers = await all_answers(
            choose(llm, self.prompt.render(description=case.shown(description), sets=sets), 3) for _, sets, _ in choices
        )
        right: dict[float, list[bool]] = defaultdict(list)
        for (strength, _, own), answer in zip(choices, answers, strict=True):
            right[strength].append(answer == own)
        everything = [one for some in right.values() for one in some]
        metrics = {f"strength_{strength:g}": sum(some) / len(some) for strength, some in right.items()}
        return Grade(sum(everything) / len(everything), metrics if len(metrics) > 1 else {})

    def choices(self, case: JudgeCase) -> list[Choice]:
        """Return the questions, which are the same for every description of a neuron.

        Raises:
            Unanswered: if the neuron, or fewer than two others, were steered.
        """
        others = [
            _by_strength(texts)
            for neuron, texts in sorted(case.steered.items())
            if neuron.unsigned != case.neuron.unsigned
        ]
        choices: list[Choice] = []
        for strength, own in _steered(case).items():
            available = [texts[strength] for texts in others if strength in texts]
            if len(available) < 2:
                raise Unanswered(Status.FAILED, f"{len(available)} other neurons were steered; two are needed")
            for number in range(self._rounds):
                rng = derive_rng(case.seed, self.prompt.name, case.neuron, strength, number)
                shown = [available[index] for index in rng.choice(len(available), 2, replace=False)]
                position = int(rng.integers(3))
                shown.insert(position, own)
                sets = [[item.text for item in spread(texts, self._texts)] for texts in shown]
                choices.append((strength, sets, position + 1))
        return choices


class Faithfulness(Scorer):
    """Scores a description by what steering adds: do more continuations fit it than without steering?

    An LLM rates each continuation 0 or 1, without knowing which ones are steered. The value is the share of fitting
    ones at the best strength minus the share without steering: from -1 to 1. For a neuron without any effect, it is 0
    at one strength, and slightly above 0 as the best of several. ``unsteered`` is the share without steering,
    ``strength_X`` the gain at strength X, and ``mean_gain`` (chance 0) the mean of the gains.
    """

    needs_steered = True
    prompt = Prompt("judges", "prompts/faithfulness.j2")

    @validated
    def __init__(self, role: str = "judge", texts: Count = 10, batch: Count = 5) -> None:
        self.role, self._texts, self._batch = role, texts, batch

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Have the continuations of all strengths rated, mixed; raises ``Unanswered`` if a batch is not answered."""
        llm, steered = case.require_llm(), _steered(case)
        unsteered = [item for item in case.steered[case.neuron] if item.strength is None]
        shown = [item for texts in (unsteered, *steered.values()) for item in spread(texts, self._texts)]
        mixed = shuffled(shown, case, self.prompt.name)
        texts = [item.text for item in mixed]
        ratings = await rate(
            llm, self.prompt, case.shown(description), texts, highest=1, batch=self._batch, item="text"
        )
        rated: dict[float | None, list[int]] = defaultdict(list)
        for item, fits in zip(mixed, ratings, strict=True):
            rated[item.strength].append(fits)
        shares = {strength: sum(fits) / len(fits) for strength, fits in rated.items()}
        gains = {strength: shares[strength] - shares[None] for strength in steered}
        metrics = {f"strength_{strength:g}": gain for strength, gain in gains.items()}
        mean = sum(gains.values()) / len(gains)
        return Grade(max(gains.values()), {"unsteered": shares[None], "mean_gain": mean, **metrics})


def _steered(case: JudgeCase) -> TextsByStrength:
    """Return the neuron's steered texts; raises ``Unanswered`` if there are none."""
    texts = _by_strength(case.steered.get(case.neuron, ()))
    if not texts:
        raise Unanswered(Status.FAILED, "the neuron was not steered: it is never active on the explain split")
    return texts


def _by_strength(texts: Sequence[SteeredText]) -> TextsByStrength:
    """Return the steered texts by strength, weakest first."""
    found: TextsByStrength = defaultdict(list)
    for item in texts:
        if item.strength is not None:
            found[item.strength].append(item)
    return {strength: found[strength] for strength in sorted(found)}
