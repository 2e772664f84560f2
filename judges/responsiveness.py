"""An LLM rates how well natural excerpts fit a description, without knowing which ones activate the neuron.

Source: Puri et al. 2025 (FADE): ratings 0, 1 and 2; responsiveness and purity.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Status
from harness.spread import spread
from harness.validation import METHOD, Count, CountOrZero
from judges.accuracy import auroc, average_precision
from judges.evidence import by_activation, excerpt, shuffled
from judges.numbered import rate

_FITS = 2


@dataclass(config=METHOD, eq=False)
class _Rated(Scorer):
    """Has excerpts of all activations rated, and compares those that fit (2) with those that do not (0).

    Excerpts rated 1 are left out. ``fitting`` and ``unfitting`` are the numbers of the others, ``base`` is the share of
    the fitting ones.
    """

    prompt = Prompt("judges", "prompts/responsiveness.j2")

    role: str = "judge"
    active: Count = 15
    random: Count = 15
    batch: Count = 5
    context: CountOrZero = 16

    @abstractmethod
    def metric(self, fits: NDArray[np.bool_], activations: NDArray[np.float64]) -> float:
        """Return the value; its chance level if all excerpts fit, or none does, so that nothing can be compared."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Have the excerpts rated and compare.

        A description that fits all excerpts, or none, carries no information and gets the chance value. If it counted
        as failed, it would drop out of the means, and it is a bad one.

        Raises:
            Unanswered: if a batch was not rated, or the report split has no window.
        """
        llm, shown = case.require_llm(), self.excerpts(case)
        if not shown:
            raise Unanswered(Status.FAILED, "the report split has no window")
        texts = [excerpt(item, self.context) for item in shown]
        answers = await rate(
            llm, self.prompt, case.shown(description), texts, highest=_FITS, batch=self.batch, item="excerpt"
        )
        ratings = np.array(answers)
        fitting, unfitting = int(np.sum(ratings == _FITS)), int(np.sum(ratings == 0))
        metrics = {
            "fitting": float(fitting),
            "unfitting": float(unfitting),
            "base": fitting / max(1, fitting + unfitting),
        }
        clear = ratings != 1
        activations = np.array([item.activation for item in shown])
        return Grade(self.metric(ratings[clear] == _FITS, activations[clear]), metrics)

    def excerpts(self, case: JudgeCase) -> list[Exemplar]:
        """Return the windows that are rated, which are the same for every description of a neuron."""
        active = spread(by_activation(case, Source.TOP, Source.QUANTILE), self.active)
        known = {item.window for item in active}
        random = [item for item in by_activation(case, Source.RANDOM) if item.window not in known]
        return shuffled([*active, *spread(random, self.random)], case, self.prompt.name)


class Responsiveness(_Rated):
    """Scores a description by responsiveness: is the neuron more active on text that fits it?

    The value is 2 AUC - 1 of the activations of fitting against unfitting excerpts: from -1 to 1, chance 0, and 0 if
    one of the kinds is missing. The metrics are those of :class:`_Rated`.
    """

    def metric(self, fits: NDArray[np.bool_], activations: NDArray[np.float64]) -> float:
        """Return 2 AUC - 1, or 0."""
        return 2 * auroc(fits, activations) - 1 if 0 < fits.sum() < len(fits) else 0.0


class Purity(_Rated):
    """Scores a description by purity: do the texts on which the neuron is most active fit it?

    The value is the average precision of the activations as a ranking of fitting before unfitting excerpts: from 0 to
    1, chance ``base``. It is 1 if all excerpts fit and 0 if none does, so purity alone cannot distinguish a good
    description from one that fits any text: interpret it together with responsiveness. Both use the same excerpts,
    prompts and ratings, so a run with both pays for them once. The options are those of
    ``conf/judges/responsiveness.yaml``.
    """

    def metric(self, fits: NDArray[np.bool_], activations: NDArray[np.float64]) -> float:
        """Return the average precision, or the share of fitting excerpts: 0 or 1."""
        return average_precision(fits, activations) if fits.any() and not fits.all() else float(fits.any())
