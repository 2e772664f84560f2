"""Figures as a leaderboard holds them: rounded to six decimals; none where there is none, never nan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

from harness.records import Status, Usage
from harness.stats.bootstrap import Interval


def figure(value: SupportsFloat | None) -> float | None:
    """Return a figure, or none if it is not finite."""
    number = math.nan if value is None else float(value)
    return round(number, 6) + 0.0 if math.isfinite(number) else None  # + 0.0: no negative zero


def span(interval: Interval | None) -> Interval | None:
    """Return an interval, rounded."""
    return None if interval is None else (round(interval[0], 6) + 0.0, round(interval[1], 6) + 0.0)


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, none of no values."""
    return figure(math.fsum(values) / len(values)) if values else None


def count_statuses(statuses: Iterable[Status]) -> dict[str, int]:
    """Return how often each status occurs, those that do not among them."""
    counts = Counter(statuses)
    return {str(status): counts[status] for status in Status}


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Sum what was asked and answered; not the seconds, so that equal answers make an equal leaderboard."""
    calls = prompt = completion = 0
    for item in usages:
        calls += item.calls
        prompt += item.prompt_tokens
        completion += item.completion_tokens
    return Usage(calls, prompt, completion)
