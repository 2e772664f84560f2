"""Which pairs of descriptions a comparator is asked about, and on which neurons.

*all* and *baseline* are plain. *adaptive* goes on in rounds: every pair on the first neurons, then only those pairs
whose order is still open, on some more. A pair is settled when the confidence interval of its win rate leaves out 1/2;
the interval is that of Chernoff in its Kullback-Leibler form, valid for outcomes anywhere in [0, 1] (Garivier & Cappé
2011, arXiv:1102.2490), at a level that allows for a look after every round: over all rounds together, the chance that
a pair whose true rate is 1/2 or lies on the other side is ever called settled is at most 1 - ``confidence``.
Observations are whole neurons: what a pair got on both signs and in both orders is one number.

*What this does to the figures.* A pair that stops early has, on average, a win rate that is too extreme: it stopped
because it was. And a describer meets its close rivals more often than those far from it, which pulls its plain win rate
towards 1/2. So compare describers by a figure that weighs opponents and not comparisons (a Bradley-Terry fit, or the
mean over the cells of the win matrix), and read a settled cell for its sign more than for its size. A pair that was not
asked has no verdict: it is a missing cell, neither a failure nor a tie. Neurons come in one random order for all
pairs, so that pairs share them as far as they can; those that a judge cannot compare a pair on are passed over.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.checks import require, require_count
from harness.records import Neuron
from harness.results.comparisons import Comparison
from harness.seeds import derive_rng

Pair = tuple[str, str]
#: How many of its neurons, in their random order, each pair has been given, round by round.
Plan = dict[Pair, int]
#: The whole neurons on which a judge can compare each pair, in their random order.
Orders = Mapping[Pair, Sequence[Neuron]]


@dataclass(frozen=True)
class ComparisonConfig:
    """Which comparisons are made.

    Attributes:
        schedule: ``all`` pairs, a ``baseline`` against all others, or ``adaptive``.
        baseline: the describer that all others are compared with.
        first: adaptive: neurons on which every pair is compared to begin with.
        step: adaptive: further neurons for each open pair in each further round.
        confidence: adaptive: how sure the order of a pair must be for the pair to be settled.
        budget: adaptive: largest share of all comparisons (pairs times neurons) that is made.
        retest: share of all verdicts and scores that are asked for again with another seed.

    Raises:
        ValueError: if a value is out of range, or a baseline is missing or there without being used.
    """

    schedule: Literal["all", "baseline", "adaptive"]
    baseline: str | None
    first: int
    step: int
    confidence: float
    budget: float
    retest: float

    def __post_init__(self) -> None:
        known = ("all", "baseline", "adaptive")
        require(self.schedule in known, "schedule", self.schedule, "all, baseline or adaptive")
        require((self.baseline is not None) == (self.schedule == "baseline"), "baseline", self.baseline, BASELINE)
        require_count("first", self.first, 1)
        require_count("step", self.step, 1)
        require(0 < self.confidence < 1, "confidence", self.confidence, "between 0 and 1")
        require(0 < self.budget <= 1, "budget", self.budget, "above 0 and at most 1")
        require(0 <= self.retest <= 1, "retest", self.retest, "from 0 to 1")

    def pairs(self, describers: Iterable[str]) -> list[Pair]:
        """Return the pairs of describers that are compared, each and all of them in a fixed order."""
        pairs = itertools.combinations(sorted(describers), 2)
        return [pair for pair in pairs if self.baseline is None or self.baseline in pair]


BASELINE = "the name of a describer with schedule=baseline, and null otherwise"


def shuffled(neurons: Sequence[Neuron], seed: int) -> list[Neuron]:
    """Return the whole neurons in the one random order in which all pairs take them."""
    whole = sorted({neuron.unsigned for neuron in neurons})
    return [whole[place] for place in derive_rng(seed, "comparisons").permutation(len(whole))]


def first_round(config: ComparisonConfig, orders: Orders) -> Plan:
    """Return how many neurons each pair is given to begin with: equally many as far as it has them, within the budget.

    Args:
        config: the settings.
        orders: the whole neurons on which each pair can be compared, in their random order.
    """
    if config.schedule != "adaptive":
        return {pair: len(order) for pair, order in orders.items()}
    affordable = {pair: max(1, math.floor(config.budget * len(order) + 1e-9)) for pair, order in orders.items()}
    return {pair: min(config.first, affordable[pair], len(order)) for pair, order in orders.items()}


def next_round(
    config: ComparisonConfig, rounds: Sequence[Plan], comparisons: Sequence[Comparison], orders: Orders
) -> Plan | None:
    """Return how many neurons each pair is given in the next round, or none if there is none.

    A pure function of its arguments, in which the order of the comparisons does not matter. A pair without one usable
    verdict does not go on: more of what fails would tell nothing, and be taken from the others' budget.

    Args:
        config: the settings.
        rounds: the rounds so far, at least one.
        comparisons: what one judge decided; those of pairs and neurons outside the rounds do not count.
        orders: the whole neurons on which each pair can be compared, in their random order.
    """
    given = rounds[-1]
    if config.schedule != "adaptive":
        return None
    left = math.floor(config.budget * sum(map(len, orders.values())) + 1e-9) - sum(given.values())
    evidence = _evidence(given, comparisons, orders)
    bar = threshold(config.confidence, len(rounds))
    # What did not go on in the last round was settled at an earlier look, and stays so though the bar has risen since.
    going = [pair for pair, count in given.items() if len(rounds) == 1 or count > rounds[-2].get(pair, 0)]
    # Closest first, so that a budget that does not suffice for all is spent where it tells most.
    open_ = [pair for pair in going if evidence.get(pair, bar) < bar and given[pair] < len(orders[pair])]
    plan = dict(given)
    for pair in sorted(open_, key=lambda pair: (evidence[pair], pair)):
        more = min(config.step, len(orders[pair]) - given[pair], left)
        plan[pair] += more
        left -= more
    return plan if plan != given else None


def threshold(confidence: float, looks: int) -> float:
    """Return the evidence at which a pair is settled at the ``looks``-th look.

    The error that is allowed, 1 - confidence, is spread over the looks as 1 / (k (k + 1)), which sums to 1, and over
    the two sides.
    """
    return math.log(2 * looks * (looks + 1) / (1 - confidence))


def evidence(points: Sequence[float]) -> float:
    """Return how much n outcomes in [0, 1] speak against a win rate of 1/2: n KL(mean, 1/2), in nats.

    By Chernoff's bound, outcomes whose mean is 1/2 or on the other side of it give as much or more with probability at
    most exp(-evidence).
    """
    if not points:
        return 0.0
    mean = math.fsum(points) / len(points)
    parts = (share * math.log(2 * share) for share in (mean, 1 - mean) if share > 0)
    return len(points) * math.fsum(parts)


def _evidence(given: Plan, comparisons: Sequence[Comparison], orders: Orders) -> Mapping[Pair, float]:
    """Return the evidence of the pairs that have a usable verdict."""
    chosen = {pair: set(orders[pair][:count]) for pair, count in given.items()}
    points: dict[Pair, dict[Neuron, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in comparisons:
        pair, neuron = (item.left, item.right), item.neuron.unsigned
        if item.points is not None and neuron in chosen.get(pair, ()):
            points[pair][neuron].append(item.points)
    return {
        pair: evidence([math.fsum(own) / len(own) for _, own in sorted(found.items())])
        for pair, found in points.items()
    }
