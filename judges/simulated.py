"""What all simulation scorers share: which windows are simulated, and what the predictions are worth.

Source: Bills et al. 2023 (correlation scoring; top-and-random and random-only scores) and Choi et al. 2024 (the signed
correlation, and the linear calibration).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.checks import require, require_count
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Unanswered
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Split, Status
from judges.evidence import pearson, top_and_random, varies

Floats = NDArray[np.float64]
FIGURES = ("top_and_random", "top", "random")


@dataclass(frozen=True)
class Prediction:
    """A simulated window: the level at each token, and the mean probability on the levels where that is known."""

    levels: Floats
    mass: float | None = None


class Simulation(Scorer):
    """Scores a description by simulation: Pearson's r of predicted and true activation, signed, over pooled tokens.

    ``top_and_random`` is r over the report split's top and random windows 1:1, ``top`` and ``random`` over one source
    alone; one of them is the value. Each lies from -1 to 1, chance 0. What is to be predicted is what a description
    can be about: the activations above zero. Below it is the neuron's other sign, a neuron of its own, and there the
    truth is 0, as in the levels that describers see. A prediction that is the same everywhere has r = 0, and
    ``constant`` is 1 then, else 0: it is an answer that tells nothing, and no failure.

    A linear calibration is fitted on the calibrate split alone, top and random 1:1 (of a constant prediction it is the
    mean there); on the report split's it gives ``r2`` = 1 - mean((t-p)^2) / mean(t^2) and ``absolute`` = 1 - mean|t-p|
    / mean|t|: at most 1, and 0 for who always predicts 0. ``digit_mass``, where it is known, is the mean probability
    that the simulator puts on the levels at all.

    Args:
        role: the LLM role that simulates.
        windows: windows of each source and split.
        figure: which r is the value.
    """

    def __init__(self, role: str, windows: int, figure: str) -> None:
        require_count("windows", windows, 1)
        require(figure in FIGURES, "figure", figure, "one of " + ", ".join(FIGURES))
        self.role, self._windows, self._figure = role, windows, figure

    @abstractmethod
    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Predict one window; raises ``Unanswered`` if it cannot be simulated."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Simulate all windows and correlate.

        Raises:
            Unanswered: if any window could not be simulated: a score over the others would favour descriptions on
                which the simulator fails. And if the neuron's activations do not vary over them, whatever the
                description.
        """
        llm = case.require_llm()
        report, calibrate = (top_and_random(case, split, self._windows) for split in (Split.REPORT, Split.CALIBRATE))
        shown = [*report[Source.TOP], *report[Source.RANDOM], *_even(calibrate)]
        simulated = await all_answers(self.simulate(llm, description, item) for item in shown)
        predicted = dict(zip((_key(item) for item in shown), simulated, strict=True))

        def pooled(exemplars: Sequence[Exemplar]) -> tuple[Floats, Floats]:
            levels = [predicted[_key(item)].levels for item in exemplars]
            true = [np.maximum(item.activations, 0.0) for item in exemplars]
            return (np.concatenate(levels), np.concatenate(true)) if exemplars else (np.zeros(0), np.zeros(0))

        parts = (_even(report), report[Source.TOP], report[Source.RANDOM])
        pools = {name: pooled(items) for name, items in zip(FIGURES, parts, strict=True)}
        figures = {name: pearson(*pool) for name, pool in pools.items()}
        value = figures.pop(self._figure)
        if value is None:
            raise Unanswered(Status.FAILED, "the neuron's activations do not vary over the report split")
        masses = [item.mass for item in simulated if item.mass is not None]
        metrics = {
            **figures,
            "constant": float(not varies(pools[self._figure][0])),
            "digit_mass": float(np.mean(masses)) if masses else None,
            **_calibrated(pooled(_even(calibrate)), pooled(_even(report))),
        }
        return Grade(value, {name: metric for name, metric in metrics.items() if metric is not None})


def _even(groups: dict[Source, list[Exemplar]]) -> list[Exemplar]:
    """Return equally many windows of each source."""
    count = min(map(len, groups.values()))
    return [item for group in groups.values() for item in group[:count]]


def _key(exemplar: Exemplar) -> tuple[Split, int]:
    return exemplar.split, exemplar.window


def _calibrated(fit: tuple[Floats, Floats], test: tuple[Floats, Floats]) -> dict[str, float]:
    """Fit a line from predicted to true activations on one part, and measure how it does on another."""
    if not len(fit[0]) or not len(test[0]) or not np.any(test[1]):
        return {}
    slope, intercept = np.polyfit(*fit, 1) if varies(fit[0]) else (0.0, fit[1].mean())
    fitted, actual = slope * test[0] + intercept, test[1]
    return {
        "r2": float(1 - np.mean((actual - fitted) ** 2) / np.mean(actual**2)),
        "absolute": float(1 - np.mean(np.abs(actual - fitted)) / np.mean(np.abs(actual))),
    }
