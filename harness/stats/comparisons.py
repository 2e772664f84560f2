"""From verdicts, one for each order shown, to comparisons, one for each pair of descriptions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from harness.records import Neuron, Status, Verdict, Winner

MISSING = "missing"
"""The status of an order that was never asked, beside those of :class:`~harness.records.Status`."""


@dataclass(frozen=True, order=True)
class Comparison:
    """What one judge decided about two describers on one neuron, all orders taken together.

    Attributes:
        neuron: the neuron.
        judge: the judge's name.
        left: the describer whose name sorts first; where it was shown does not matter here.
        right: the other describer.
        points: what ``left`` got: 1 for a win, 0.5 for a tie, 0 for a loss; none if the comparison failed. ``right``
            got the rest of 1.
        inconsistent: whether the two orders disagreed, which makes a tie.
        both_orders: whether the judge was asked in both orders (false for symmetric judges).
        failures: why the comparison failed: the status of each order that has no verdict; empty if it did not fail.
    """

    neuron: Neuron
    judge: str
    left: str
    right: str
    points: float | None
    inconsistent: bool
    both_orders: bool
    failures: tuple[str, ...] = ()


def effective_status(verdict: Verdict) -> Status:
    """Return the verdict's status, or failed if it claims to be ok without a winner."""
    return Status.FAILED if verdict.status is Status.OK and verdict.winner is None else verdict.status


def merge_verdicts(verdicts: Iterable[Verdict]) -> list[Comparison]:
    """Merge verdicts into comparisons, one per judge, neuron and unordered pair of describers, sorted.

    A symmetric verdict is a whole comparison. Any other judge is needed in both orders: if they agree, that is the
    outcome; if they differ in any way (one says tie included) the comparison is an inconsistent tie; if one of them is
    missing or not ok the comparison has failed, and says so with the statuses: it is never a tie.

    Raises:
        ValueError: if two verdicts answer the same question, or a describer is compared with itself.
    """
    groups: dict[tuple[Neuron, str, str, str], dict[str, Verdict]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.first == verdict.second:
            raise ValueError(f"{verdict.judge} on {verdict.neuron} compares {verdict.first!r} with itself")
        left, right = sorted((verdict.first, verdict.second))
        orders = groups[verdict.neuron, verdict.judge, left, right]
        if verdict.first in orders:
            raise ValueError(
                f"two verdicts of {verdict.judge} on {verdict.neuron}, {verdict.first!r} before {verdict.second!r}; "
                "keep the last one"
            )
        orders[verdict.first] = verdict
    return [_merge(*identity, orders) for identity, orders in sorted(groups.items())]


def _merge(neuron: Neuron, judge: str, left: str, right: str, orders: dict[str, Verdict]) -> Comparison:
    """Merge the verdicts on one pair, which are keyed by the describer shown first."""
    symmetric = [verdict for verdict in orders.values() if verdict.symmetric]
    both = not symmetric
    used = list(orders.values()) if both else symmetric
    failures = [str(effective_status(verdict)) for verdict in used if effective_status(verdict) is not Status.OK]
    if both and len(used) < 2:
        failures.append(MISSING)
    if failures:
        return Comparison(neuron, judge, left, right, None, False, both, tuple(sorted(failures)))
    outcomes = {_points(verdict, left) for verdict in used}
    inconsistent = len(outcomes) > 1
    return Comparison(neuron, judge, left, right, 0.5 if inconsistent else outcomes.pop(), inconsistent, both)


def _points(verdict: Verdict, describer: str) -> float:
    """Return what one of a verdict's two describers got."""
    if verdict.winner is Winner.TIE:
        return 0.5
    return float((verdict.winner is Winner.FIRST) == (verdict.first == describer))
