"""Whether a leaderboard can be trusted: controls that know nothing about the neuron must lose to the real methods.

A control that knows the neuron (``informed``) may win; that says something about the methods, not about the judge. A
judge that prefers a generic description, or one of another neuron, does not measure what it should. Only comparisons
of controls with real methods count.

*Degenerate cases.* The result is None without controls, without real methods, without decided comparisons between them,
or with fewer neurons than a test can reject with (:func:`harness.stats.permutation.neurons_to_reject`; six at the 5 %
level). A judge that tosses a coin lets a control lose on all of 2 neurons in 25 % of runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from harness.results.comparisons import ComparisonTable
from harness.results.rounding import rounded, rounded_interval
from harness.results.schema import ControlCheck, PairTest, Trust
from harness.results.tally import Tally
from harness.stats.bootstrap import percentiles, ratio
from harness.stats.config import StatisticsConfig
from harness.stats.permutation import neurons_to_reject


def check_controls(
    pairs: Tally,
    table: ComparisonTable,
    tests: Sequence[PairTest],
    controls: Collection[str],
    informed: Collection[str],
    config: StatisticsConfig,
) -> Trust:
    """Compare the controls with the real methods.

    A board is untrustworthy if the interval of an uninformed control's win rate against the real methods reaches the
    limit, or if such a control beats a real method significantly.

    Args:
        pairs: points by pair.
        table: the decided comparisons.
        tests: the board's tests.
        controls: names of the controls.
        informed: those of them that know the neuron.
        config: the limit and the level of the tests.
    """
    names = table.describers
    is_control = np.array([name in controls for name in names], dtype=np.bool_)
    favoured = {
        (winner, loser)
        for test in tests
        for winner, loser in ((test.left, test.right), (test.right, test.left))
        if test.p_holm < 1 - config.confidence and _rate(pairs, names, winner, loser) > 0.5
    }
    checks, tested = [], set()
    least = neurons_to_reject(1 - config.confidence)
    for place in np.flatnonzero(is_control).tolist():
        name = names[place]
        as_left = (pairs.left == place) & ~is_control[pairs.right]
        as_right = (pairs.right == place) & ~is_control[pairs.left]
        counts, drawn_counts = (x[..., as_left | as_right].sum(axis=-1) for x in (pairs.counts, pairs.drawn_counts))
        points, drawn = (
            x[..., as_left].sum(axis=-1) + (n[..., as_right] - x[..., as_right]).sum(axis=-1)
            for x, n in ((pairs.points, pairs.counts), (pairs.drawn_points, pairs.drawn_counts))
        )
        met = ((table.left == place) & ~is_control[table.right]) | ((table.right == place) & ~is_control[table.left])
        neurons = len(np.unique(table.cluster[met]))
        interval = percentiles(ratio(drawn, drawn_counts)[:, None], [neurons], config.confidence)[0]
        if neurons >= least and interval is not None:
            tested.add(name)
        beats = tuple(sorted(loser for winner, loser in favoured if winner == name and loser not in controls))
        checks.append(
            ControlCheck(
                name, name in informed, rounded(ratio(points, counts)), rounded_interval(interval), int(counts), beats
            )
        )
    trustworthy, words = _conclusion(checks, tested, least, config)
    return Trust(trustworthy, words, config.control_win_rate, tuple(checks))


def _rate(pairs: Tally, names: Sequence[str], one: str, other: str) -> float:
    left, right = sorted((one, other))
    here = (pairs.left == names.index(left)) & (pairs.right == names.index(right))
    rate = float(ratio(pairs.points[here].sum(), pairs.counts[here].sum()))
    return rate if one == left else 1 - rate


def _conclusion(
    every: Sequence[ControlCheck], tested: Collection[str], least: int, config: StatisticsConfig
) -> tuple[bool | None, str]:
    """Return whether the uninformed controls lost, and a sentence with the reasons.

    Args:
        every: what is known of each control.
        tested: the controls with at least ``least`` neurons.
        least: the smallest number of neurons with which a test can reject.
        config: the limit and the level of the tests.
    """
    checks = [check for check in every if not check.informed]
    tried = [check for check in checks if check.control in tested]
    limit, confidence = f"{100 * config.control_win_rate:g} %", f"{100 * config.confidence:g} %"
    reasons = []
    for check in tried:
        assert check.interval is not None
        assert check.win_rate is not None
        if check.interval[1] >= config.control_win_rate:
            reasons.append(
                f"the control {check.control} wins {100 * check.win_rate:.1f} % against the real methods, and the "
                f"{confidence} interval ({100 * check.interval[0]:.1f} to {100 * check.interval[1]:.1f} %) reaches "
                f"{limit}"
            )
        if check.beats:
            reasons.append(f"the control {check.control} beats {', '.join(check.beats)} significantly")
    if reasons:
        return False, f"Untrustworthy: {'; '.join(reasons)}.{_informed(every, config)}"
    if not tried:
        why = (
            "no control was compared with a real method"
            if not any(check.comparisons for check in checks)
            else f"at least {least} neurons are needed to test whether the controls lose"
        )
        return None, f"Trust was not tested: {why}."
    untried = [check.control for check in checks if check.control not in tested]
    but = f" (not tested: {', '.join(untried)})" if untried else ""
    words = f"The controls lose as they must: each wins less than {limit} against the real methods{but}."
    return True, words + _informed(every, config)


def _informed(checks: Sequence[ControlCheck], config: StatisticsConfig) -> str:
    """Return a sentence on each informed control that the real methods do not clearly beat."""
    words = ""
    for check in checks:
        if check.informed and check.interval is not None and check.interval[1] >= config.control_win_rate:
            words += (
                f" {check.control}, a control that knows the neuron, wins {100 * (check.win_rate or 0):.1f} % against "
                f"the real methods ({100 * check.interval[0]:.1f} to {100 * check.interval[1]:.1f} %)."
            )
    return words
