"""What the subject writes while the neuron is steered: does it fit the description?

Sources: Gur-Arieh et al. 2025, arXiv:2501.08319 (output-based evaluation) and Puri et al. 2025 (FADE: faithfulness).
The texts are made once for each neuron, prompt and strength (``steering.texts``) and shared by all scorers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.checks import require_count
from harness.errors import HarnessError
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Neuron, Status, SteeredText
from harness.seeds import derive_rng
from harness.spread import spread
from judges.excerpts import shuffled
from judges.numbered import ask_numbered, batches, levels


class OutputBased(Scorer):
    """Scores a description by whether an LLM finds the neuron's own steered texts among those of two other neurons.

    One question shows three sets of texts, from the same prompts at the same strength: one of this neuron and one each
    of two others, of which it never is the same one at its other sign. The value is the share of questions, one for
    each strength and round, in which the LLM chooses the right set: from 0 to 1, chance 1/3. ``strength_X`` is the
    share at strength X alone.

    Args:
        role: the LLM role that judges.
        rounds: questions for each strength, each with other neurons beside it.
        texts: texts in one set, at most, spread evenly over prompts and samples.
    """

    needs_steered = True
    prompt = Prompt("judges", "prompts/output_based.j2")

    def __init__(self, role: str = "judge", rounds: int = 1, texts: int = 5) -> None:
        require_count("rounds", rounds, 1)
        require_count("texts", texts, 1)
        self.role, self._rounds, self._texts = role, rounds, texts

    def check(self, neurons: Sequence[Neuron]) -> None:
        """Refuse a run in which no neuron has two others beside it."""
        if len({neuron.unsigned for neuron in neurons}) < 3:
            raise HarnessError(
                "each question shows texts of two other neurons: choose three or more (neurons.per_layer=3), or "
                "leave it out"
            )

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Ask at every strength; raises ``Unanswered`` if one question is not answered, or has no others to show."""
        llm, choices = case.require_llm(), self.choices(case)
        answers = await all_answers(self._ask(llm, description, choice) for choice in choices)
        right: dict[float, list[bool]] = defaultdict(list)
        for choice, answer in zip(choices, answers, strict=True):
            right[choice.strength].append(answer == choice.own)
        found = [one for some in right.values() for one in some]
        metrics = {f"strength_{strength:g}": sum(some) / len(some) for strength, some in right.items()}
        return Grade(sum(found) / len(found), metrics if len(metrics) > 1 else {})

    def choices(self, case: JudgeCase) -> list[Choice]:
        """Return what is asked: the same for every description of a neuron.

        Raises:
            Unanswered: if the neuron, or fewer than two others, were steered.
        """
        own = _by_strength(case.steered.get(case.neuron, ()))
        if not own:
            raise Unanswered(Status.FAILED, "the neuron was not steered: it is never active on the explain split")
        others = {
            neuron: _by_strength(texts)
            for neuron, texts in sorted(case.steered.items())
            if neuron.unsigned != case.neuron.unsigned
        }
        return [
            self._choice(case, strength, number, texts, others)
            for strength, texts in own.items()
            for number in range(self._rounds)
        ]

    def _choice(
        self,
        case: JudgeCase,
        strength: float,
        number: int,
        own: Sequence[SteeredText],
        others: dict[Neuron, dict[float, list[SteeredText]]],
    ) -> Choice:
        able = [texts[strength] for texts in others.values() if strength in texts]
        if len(able) < 2:
            raise Unanswered(Status.FAILED, f"{len(able)} other neurons were steered; two are needed beside this one")
        rng = derive_rng(case.seed, self.prompt.name, case.neuron, strength, number)
        shown = [able[place] for place in rng.choice(len(able), 2, replace=False)]
        place = int(rng.integers(3))
        shown.insert(place, list(own))
        sets = tuple(tuple(item.text for item in spread(texts, self._texts)) for texts in shown)
        return Choice(strength, sets, place + 1)

    async def _ask(self, llm: LLMClient, description: str, choice: Choice) -> int:
        prompt = self.prompt.render(description=description, sets=choice.sets)
        (answer,) = await ask_numbered(llm, prompt, "choice", 1, levels(3, 1))
        return int(answer)


@dataclass(frozen=True)
class Choice:
    """Three sets of texts, of which number ``own``, from 1, is the neuron's; and the strength."""

    strength: float
    sets: tuple[tuple[str, ...], ...]
    own: int


class Faithfulness(Scorer):
    """Scores a description by what steering adds: do more continuations fit it than without steering?

    An LLM rates each continuation 0 or 1, not knowing which are steered. The value is the share of fitting ones at the
    strength where it is highest less the share without steering: from -1 to 1; of a neuron that does nothing it is 0 at
    one strength, and, as it is the best of several, a little above with more. ``unsteered`` is the share without
    steering, ``strength_X`` the gain at strength X; their mean, ``mean_gain``, is 0 by chance.

    Args:
        role: the LLM role that rates.
        texts: continuations rated for each strength, and unsteered, at most.
        batch: continuations in one prompt.
    """

    needs_steered = True
    prompt = Prompt("judges", "prompts/faithfulness.j2")

    def __init__(self, role: str = "judge", texts: int = 10, batch: int = 5) -> None:
        require_count("texts", texts, 1)
        require_count("batch", batch, 1)
        self.role, self._texts, self._batch = role, texts, batch

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Have the continuations rated, all strengths mixed; raises ``Unanswered`` if a batch is not answered."""
        llm = case.require_llm()
        own = case.steered.get(case.neuron, ())
        steered = _by_strength(own)
        if not steered:
            raise Unanswered(Status.FAILED, "the neuron was not steered: it is never active on the explain split")
        unsteered = [item for item in own if item.strength is None]
        shown = [item for texts in (unsteered, *steered.values()) for item in spread(texts, self._texts)]
        asked = shuffled(shown, case, self.prompt.name)
        parts = await all_answers(
            self._rate(llm, description, [asked[place].text for place in places])
            for places in batches(len(asked), self._batch)
        )
        rated: dict[float | None, list[int]] = defaultdict(list)
        for item, fits in zip(asked, [fits for part in parts for fits in part], strict=True):
            rated[item.strength].append(fits)
        shares = {strength: sum(fits) / len(fits) for strength, fits in rated.items()}
        gains = {strength: shares[strength] - shares[None] for strength in steered}
        metrics = {f"strength_{strength:g}": gain for strength, gain in gains.items()}
        mean = sum(gains.values()) / len(gains)
        return Grade(max(gains.values()), {"unsteered": shares[None], "mean_gain": mean, **metrics})

    async def _rate(self, llm: LLMClient, description: str, texts: list[str]) -> list[int]:
        prompt = self.prompt.render(description=description, texts=texts)
        return await ask_numbered(llm, prompt, "text", len(texts), levels(1))


def _by_strength(texts: Sequence[SteeredText]) -> dict[float, list[SteeredText]]:
    """Return the steered texts by their strength, weakest first."""
    found: dict[float, list[SteeredText]] = defaultdict(list)
    for item in texts:
        if item.strength is not None:
            found[item.strength].append(item)
    return {strength: found[strength] for strength in sorted(found)}
