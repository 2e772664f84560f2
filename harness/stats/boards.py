"""The tables of a leaderboard, as frozen dataclasses with a JSON form.

Figures are rounded to six decimals; a figure that has no observations is none, never NaN and never zero.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from harness.records import Usage, from_json


@dataclass(frozen=True)
class Row:
    """One describer on one board.

    Attributes:
        describer: its name.
        control: whether it is one of the controls that a real method must beat.
        win_rate: share of its decided comparisons that it won, ties as half; none if there are none.
        interval: bootstrap interval of the win rate, clustered by neuron; none with fewer than two neurons.
        comparisons: how many comparisons were decided: wins + losses + ties.
        wins: comparisons won.
        losses: comparisons lost.
        ties: comparisons tied, the inconsistent ones included.
        inconsistent: ties that come from two orders that disagreed.
        failed: comparisons without a usable verdict, which count nowhere else.
        mean_words: mean length of its ok descriptions in words; none if there are none.
    """

    describer: str
    control: bool
    win_rate: float | None
    interval: tuple[float, float] | None
    comparisons: int
    wins: int
    losses: int
    ties: int
    inconsistent: int
    failed: int
    mean_words: float | None


@dataclass(frozen=True)
class Cell:
    """How one describer fared against one other.

    Attributes:
        row: the describer whose win rate this is.
        column: its opponent.
        win_rate: share of the decided comparisons that ``row`` won, ties as half; none if there are none.
        comparisons: decided comparisons.
        ties: ties among them.
        failed: comparisons without a usable verdict.
        failures: why, by status of the single orders (a comparison may fail in both).
    """

    row: str
    column: str
    win_rate: float | None
    comparisons: int
    ties: int
    failed: int
    failures: dict[str, int]


@dataclass(frozen=True)
class Board:
    """Rows by win rate (highest first, then by name), and the matrix behind them by name.

    Attributes:
        judge: whose verdicts these are; none for all judges together, each comparison counting once.
        rows: one for each describer of the run.
        cells: one for each ordered pair that was compared.
    """

    judge: str | None
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class JudgeHealth:
    """Whether a comparator can be trusted.

    Attributes:
        judge: its name.
        comparisons: decided comparisons.
        ties: ties among them.
        failed: comparisons without a usable verdict.
        inconsistent: decided comparisons whose two orders disagreed.
        inconsistency: their share of the decided comparisons asked in both orders; none if there are none.
        first_position_rate: share of the ok verdicts with a winner that the description shown first won, symmetric
            verdicts left out; 0.5 means no preference for a place, none that there is no such verdict.
        statuses: count of verdicts (single orders) of every status.
        usage: what the verdicts cost.
    """

    judge: str
    comparisons: int
    ties: int
    failed: int
    inconsistent: int
    inconsistency: float | None
    first_position_rate: float | None
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class ScoreRow:
    """One describer's scores by one scorer.

    Attributes:
        scorer: the scorer's name.
        describer: the describer's name.
        control: whether it is a control.
        mean: mean of the ok scores, in the scorer's unit; none if there are none.
        interval: bootstrap interval of the mean, clustered by neuron; none with fewer than two neurons.
        scores: number of ok scores.
        statuses: count of scores of every status.
        usage: what the scores cost.
    """

    scorer: str
    describer: str
    control: bool
    mean: float | None
    interval: tuple[float, float] | None
    scores: int
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class DescriptionRow:
    """What one describer wrote, and at what cost.

    Attributes:
        describer: its name.
        control: whether it is a control.
        mean_words: mean length of the ok descriptions in words (runs of non-space); none if there are none.
        statuses: count of descriptions of every status.
        usage: what the descriptions cost.
    """

    describer: str
    control: bool
    mean_words: float | None
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class Leaderboard:
    """Every statistic of a run.

    Attributes:
        seed: the seed of the bootstrap.
        draws: number of bootstrap samples.
        confidence: nominal coverage of the intervals.
        neurons: number of neurons with at least one verdict.
        overall: all judges together.
        judges: one board for each judge, by name.
        health: one for each judge, by name.
        scores: by scorer, then by mean (highest first), then by describer.
        descriptions: by describer.
    """

    seed: int
    draws: int
    confidence: float
    neurons: int
    overall: Board
    judges: tuple[Board, ...]
    health: tuple[JudgeHealth, ...]
    scores: tuple[ScoreRow, ...]
    descriptions: tuple[DescriptionRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the leaderboard as plain JSON types, in a stable order."""
        return dataclasses.asdict(self)


def leaderboard_from_json(data: dict[str, Any]) -> Leaderboard:
    """Rebuild a leaderboard from what :meth:`Leaderboard.to_json` returned.

    Raises:
        KeyError, TypeError, ValueError: if ``data`` is no leaderboard, or one of another version.
    """
    return from_json(Leaderboard, data)
