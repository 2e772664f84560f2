"""Values as a leaderboard stores them: rounded to six decimals, and None instead of NaN."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

from harness.records import Status, Usage
from harness.stats.bootstrap import Interval


def rounded(value: SupportsFloat | None) -> float | None:
    """Return a value rounded to six decimals, or None if it is not finite."""
    number = math.nan if value is None else float(value)
    return round(number, 6) + 0.0 if math.isfinite(number) else None  # + 0.0: no negative zero


def rounded_interval(interval: Interval | None) -> Interval | None:
    """Return an interval rounded to six decimals, or None."""
    return None if interval is None else (round(interval[0], 6) + 0.0, round(interval[1], 6) + 0.0)


def mean(values: Sequence[float]) -> float | None:
    """Return the rounded mean, or None without values."""
    return rounded(math.fsum(values) / len(values)) if values else None


def count_statuses(statuses: Iterable[Status]) -> dict[str, int]:
    """Return the number of occurrences of every status, including zero."""
    counts = Counter(statuses)
    return {str(status): counts[status] for status in Status}


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Return the sum of calls and tokens. Seconds are left out, so that equal answers give an equal leaderboard."""
    calls = prompt = completion = 0
    for item in usages:
        calls += item.calls
        prompt += item.prompt_tokens
        completion += item.completion_tokens
    return Usage(calls, prompt, completion)
