"""An LLM rates how well natural excerpts fit a description, without knowing on which the neuron is active.

Source: Puri et al. 2025 (FADE): ratings 0, 1 and 2; responsiveness and purity.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.checks import require_count
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Status
from harness.spread import spread
from judges.evidence import excerpt
from judges.excerpts import by_activation, shuffled
from judges.numbered import ask_numbered, batches, levels

_FITS = 2


class _Rated(Scorer):
    """Has excerpts of all activations rated, and compares those that fit (2) with those that do not (0)."""

    prompt = Prompt("judges", "prompts/responsiveness.j2")

    def __init__(
        self, role: str = "judge", active: int = 15, random: int = 15, batch: int = 5, context: int = 16
    ) -> None:
        for name, count in (("active", active), ("random", random), ("batch", batch)):
            require_count(name, count, 1)
        self.role, self._active, self._random, self._batch, self._context = role, active, random, batch, context

    @abstractmethod
    def figure(self, fits: NDArray[np.bool_], activations: NDArray[np.float64]) -> float:
        """Return the value: of excerpts that fit and that do not, at least one of each."""

    @abstractmethod
    def chance(self, fit: int, unfit: int) -> float:
        """Return the value where there is no excerpt of one of the kinds, so that nothing can be compared."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Have the excerpts rated and compare.

        A description that no excerpt fits, or all do, is answered, and tells nothing: it has the value of chance. If it
        counted as failed, it would drop out of the means, and only the bad ones do.

        Raises:
            Unanswered: if a batch was not rated, or the report split holds no window, whatever the description.
        """
        llm, shown = case.require_llm(), self.excerpts(case)
        if not shown:
            raise Unanswered(Status.FAILED, "the report split has no window")
        parts = await all_answers(
            self._rate(llm, description, shown[places.start : places.stop])
            for places in batches(len(shown), self._batch)
        )
        ratings = np.array([rating for part in parts for rating in part])
        fit, unfit = int(np.sum(ratings == _FITS)), int(np.sum(ratings == 0))
        metrics = {"fitting": float(fit), "unfitting": float(unfit), "base": fit / max(1, fit + unfit)}
        if not fit or not unfit:
            return Grade(self.chance(fit, unfit), metrics)
        clear = ratings != 1
        activations = np.array([item.activation for item in shown])
        return Grade(self.figure(ratings[clear] == _FITS, activations[clear]), metrics)

    def excerpts(self, case: JudgeCase) -> list[Exemplar]:
        """Return what is rated: the same for every description of a neuron."""
        active = spread(by_activation(case, Source.TOP, Source.QUANTILE), self._active)
        known = {item.window for item in active}
        random = [item for item in by_activation(case, Source.RANDOM) if item.window not in known]
        return shuffled([*active, *spread(random, self._random)], case, self.prompt.name)

    async def _rate(self, llm: LLMClient, description: str, shown: list[Exemplar]) -> list[int]:
        texts = [excerpt(item, self._context) for item in shown]
        prompt = self.prompt.render(description=description, texts=texts)
        return await ask_numbered(llm, prompt, "excerpt", len(texts), levels(_FITS))


class Responsiveness(_Rated):
    """Scores a description by responsiveness: is the neuron more active on text that an LLM says fits it?

    The value is 2 AUC - 1 of the activations of excerpts rated 2 (fits) against those rated 0 (does not), those rated 1
    left out: from -1 to 1, chance 0, which it also is if there are none of one kind. ``fitting`` and ``unfitting`` are
    their numbers, ``base`` the share of the former.

    Args:
        role: the LLM role that rates.
        active: excerpts spread evenly over the activations of the top and quantile windows of the report split.
        random: excerpts spread evenly over those of its random windows.
        batch: excerpts in one prompt.
        context: tokens on either side of an excerpt's peak.
    """

    def figure(self, fits: NDArray[np.bool_], activations: NDArray[np.float64]) -> float:
        """Return 2 AUC - 1."""
        return 2 * float(roc_auc_score(fits, activations)) - 1

    def chance(self, fit: int, unfit: int) -> float:
        """Return 0."""
        return 0.0


class Purity(_Rated):
    """Scores a description by purity: are the texts on which the neuron is most active those that fit it?

    The value is the average precision of the activations as a ranking of excerpts rated 2 (fits) before those rated 0:
    from 0 to 1, chance ``base``, the share of the former; of one kind alone it is that chance, 0 if none fits and 1 if
    all do. So it cannot tell a description that fits any text from one that fits what it should: read it beside
    responsiveness, which can. The excerpts, questions and ratings are those of :class:`Responsiveness`, with the same
    arguments, so that a run with both pays for them once.
    """

    def figure(self, fits: NDArray[np.bool_], activations: NDArray[np.float64]) -> float:
        """Return the average precision."""
        return float(average_precision_score(fits, activations))

    def chance(self, fit: int, unfit: int) -> float:
        """Return the share of those that fit: 0 or 1."""
        return float(fit > 0)
