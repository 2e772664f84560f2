"""How the statistics are computed; changes no record, so it may change on a finished run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StatisticsConfig:
    """The settings of a leaderboard.

    Attributes:
        draws: number of bootstrap samples.
        confidence: nominal coverage of the intervals; 1 less this is the level of the tests.
        ridge: penalty of the Bradley-Terry model: the inverse variance, in squared logits, of what strengths are
            expected to be before any comparison is seen.
        flips: random sign flips of a permutation test, where it is not exact.
        control_win_rate: a run is untrustworthy if the interval of a control's win rate against the real methods
            reaches this.

    Raises:
        ValueError: if a value is out of range.
    """

    draws: int = 2000
    confidence: float = 0.95
    ridge: float = 0.1
    flips: int = 9999
    control_win_rate: float = 0.5

    def __post_init__(self) -> None:
        for name in ("draws", "flips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("confidence", "control_win_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if not 0 < self.ridge < float("inf"):
            raise ValueError(f"ridge must be finite and positive, not {self.ridge}")
