"""Power: how many neurons a comparison needs to detect a difference.

*Test.* Two methods are compared on every neuron. The win-rate difference is the share of comparisons that one wins
minus the share that the other wins (60 % against 40 %, ties as half, is a difference of 0.2). The test is two-sided on
its mean over neurons, with a normal approximation.

*Assumptions.* A share ``ties`` of the comparisons is tied, for any difference. A neuron is judged ``comparisons`` times
(by several judges, or at both signs) with correlation ``correlation`` between outcomes, which is worth
``comparisons / (1 + (comparisons - 1) * correlation)`` independent comparisons (design effect, Kish 1965). ``tests``
pairs of methods share the level (Bonferroni; Holm's correction has at least this power). The variance of one outcome is
``1 - ties - difference ** 2``, and ``1 - ties`` under the null hypothesis.

*Limits.* With fewer than about twenty neurons, the normal approximation overstates power a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Plan:
    """A planned comparison of two methods.

    Attributes:
        level: two-sided error rate over all tests.
        power: probability of detecting the difference.
        ties: share of tied comparisons, including inconsistent ones.
        comparisons: comparisons of the two descriptions of a neuron.
        correlation: correlation of two outcomes on one neuron, 0 to 1.
        tests: number of pairs of methods that share the level.

    Raises:
        ValueError: if a value is out of range.
    """

    level: float = 0.05
    power: float = 0.8
    ties: float = 0.0
    comparisons: int = 1
    correlation: float = 0.0
    tests: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and self.level < self.power < 1):
            raise ValueError(f"level and power must be between 0 and 1, power the greater: {self.level}, {self.power}")
        if not 0 <= self.ties < 1:
            raise ValueError(f"ties must be at least 0 and below 1, not {self.ties}")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation must be between 0 and 1, not {self.correlation}")
        if self.comparisons < 1 or self.tests < 1:
            raise ValueError(f"comparisons and tests must be at least 1, not {self.comparisons} and {self.tests}")

    @property
    def worth(self) -> float:
        """Number of independent comparisons that the comparisons of one neuron are worth."""
        return self.comparisons / (1 + (self.comparisons - 1) * self.correlation)

    def _quantiles(self) -> tuple[float, float]:
        normal = NormalDist()
        return normal.inv_cdf(1 - self.level / self.tests / 2), normal.inv_cdf(self.power)


def neurons_needed(difference: float, plan: Plan | None = None) -> int:
    """Return the number of neurons that detects a win-rate difference with the planned power.

    Args:
        difference: share of wins minus share of losses, above 0 and at most ``1 - ties``.
        plan: level, power and assumptions.

    Raises:
        ValueError: if the difference is out of range.
    """
    plan = plan or Plan()
    if not 0 < difference <= 1 - plan.ties:
        raise ValueError(f"the difference must be above 0 and at most 1 - ties = {1 - plan.ties:g}, not {difference}")
    return max(2, math.ceil(_independent(difference, plan) / plan.worth - 1e-9))


def smallest_difference(neurons: int, plan: Plan | None = None) -> float | None:
    """Return the smallest win-rate difference that this number of neurons detects with the planned power.

    None if they cannot detect any possible difference, as with a single neuron.
    """
    plan = plan or Plan()
    available, most = neurons * plan.worth, 1 - plan.ties
    if neurons < 2 or _independent(most, plan) > available:
        return None
    level, power = plan._quantiles()
    # With s = 1 - ties and N comparisons, d sqrt(N) - level sqrt(s) = power sqrt(s - d^2): a quadratic in d.
    a, b = available + power**2, -2 * level * math.sqrt(most * available)
    c = (level**2 - power**2) * most
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    # Squaring adds the smaller solution, for a power of 1 - power.
    return (-b + math.copysign(root, power)) / (2 * a)


def _independent(difference: float, plan: Plan) -> float:
    """Return the number of independent comparisons that detects the difference."""
    level, power = plan._quantiles()
    decisive = 1 - plan.ties
    seen = level * math.sqrt(decisive) + power * math.sqrt(max(decisive - difference**2, 0.0))
    return (seen / difference) ** 2
