"""The section ``statistics`` of the config: how the statistics are computed. It may change on a finished run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from harness.validation import STRICT, Count, Positive

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class StatisticsConfig:
    """Settings of a leaderboard.

    Attributes:
        draws: number of bootstrap samples.
        confidence: nominal coverage of the intervals; 1 minus this is the level of the tests.
        ridge: penalty of the Bradley-Terry model: the inverse prior variance of the strengths, in squared logits.
        flips: number of random sign flips of a permutation test that is not exact.
        control_win_rate: a run is untrustworthy if the interval of a control's win rate against the real methods
            reaches this value.
        noise_floor: folder of the same run on shuffled weights (``subject.shuffled=true``), or None.

    Raises:
        ValueError: if a value is out of range.
    """

    draws: Count = 2000
    confidence: Share = 0.95
    ridge: Positive = 0.1
    flips: Count = 9999
    control_win_rate: Share = 0.5
    noise_floor: str | None = None
