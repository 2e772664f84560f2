"""The tables of a leaderboard, as frozen dataclasses with a JSON form.

Figures are rounded to six decimals; a figure that has no observations is none, never NaN and never zero.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from harness.records import Usage, from_json


@dataclass(frozen=True)
class Row:
    """One describer on one board.

    Attributes:
        describer: its name.
        control: whether it is one of the controls that a real method must beat.
        win_rate: share of its decided comparisons that it won, ties as half; none if there are none.
        interval: bootstrap interval of the win rate, clustered by neuron; none with fewer than two neurons.
        raw_win_rate: the same of single verdicts, each order for itself: what inconsistent ones win is not made a tie,
            and the order that is left of a failed comparison counts.
        adjusted_win_rate: the win rate if all descriptions were equally long; none if there is no telling.
        adjusted_interval: its interval, the effect of length fitted anew in every sample.
        strength: Bradley-Terry strength in logits, zero on average; none if comparisons do not join all describers.
        strength_interval: its interval.
        rank: by strength, 1 for the best.
        rank_interval: the ranks it takes in the samples.
        best: share of the samples in which nobody is stronger.
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
    raw_win_rate: float | None
    adjusted_win_rate: float | None
    adjusted_interval: tuple[float, float] | None
    strength: float | None
    strength_interval: tuple[float, float] | None
    rank: int | None
    rank_interval: tuple[int, int] | None
    best: float | None
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
        interval: bootstrap interval of the win rate, clustered by neuron; none with fewer than two neurons.
        comparisons: decided comparisons.
        wins: comparisons that ``row`` won.
        losses: comparisons that ``row`` lost.
        ties: ties among them.
        wins_to_losses: wins divided by losses; None without losses.
        wins_to_losses_interval: its bootstrap interval, clustered by neuron; None also if its upper bound is infinite.
        failed: comparisons without a usable verdict.
        failures: why, by status of the single orders (a comparison may fail in both).
    """

    row: str
    column: str
    win_rate: float | None
    interval: tuple[float, float] | None
    comparisons: int
    wins: int
    losses: int
    ties: int
    wins_to_losses: float | None
    wins_to_losses_interval: tuple[float, float] | None
    failed: int
    failures: dict[str, int]


@dataclass(frozen=True)
class PairTest:
    """Whether one describer beats another: a paired permutation test by neuron, and how far they are apart.

    The difference, the effect and the p-values are of the comparisons of the two with each other. How far apart the two
    are on the board as a whole is another question, and can have another answer, even of another sign.

    Attributes:
        left: the one.
        right: the other.
        neurons: whole neurons with a decided comparison of the two.
        difference: share of their comparisons that ``left`` wins less the share that ``right`` wins.
        difference_interval: its bootstrap interval, clustered by neuron.
        overall_difference: win rate of ``left`` less that of ``right``, each against all its opponents.
        overall_interval: its bootstrap interval, clustered by neuron.
        effect: mean over neurons of the points won less those lost to ``right``, in standard deviations between
            neurons (Cohen's d of a paired design); none where neurons do not differ.
        p_value: two-sided, that the two are exchangeable on every neuron.
        p_holm: corrected for all pairs of the board.
    """

    left: str
    right: str
    neurons: int
    difference: float | None
    difference_interval: tuple[float, float] | None
    overall_difference: float | None
    overall_interval: tuple[float, float] | None
    effect: float | None
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class LengthEffect:
    """What the length of a description does to a judge's preference.

    Attributes:
        effect: change of the log-odds at the greatest difference in length, in favour of the longer; none if it cannot
            be told.
        interval: its bootstrap interval.
        longer_win_rate: win rate of the longer description where the two differ, not adjusted for anything.
        own_share: share of the variation in length that lies within pairs of describers; near 0 nothing can be told.
        comparisons: decided comparisons in which both lengths are known.
        unknown: decided comparisons in which one is not.
        words: why there is no effect; empty if there is one.
    """

    effect: float | None
    interval: tuple[float, float] | None
    longer_win_rate: float | None
    own_share: float | None
    comparisons: int
    unknown: int
    words: str


@dataclass(frozen=True)
class Graph:
    """Whether the comparisons can carry strengths at all.

    Attributes:
        groups: describers that chains of comparisons join; strengths need a single group.
        unbeaten: describers that chains of points won join, the strongest group first; with more than one group, how
            far apart they are is the penalty's choice. Empty if nothing was compared.
        words: what follows from that; empty if all is well.
    """

    groups: tuple[tuple[str, ...], ...]
    unbeaten: tuple[tuple[str, ...], ...]
    words: str


@dataclass(frozen=True)
class Cycles:
    """Whether preferences hang together, on single neurons and over all.

    Attributes:
        rate: share of triads (three describers, one judge, one neuron, no tie) whose preferences go round in a circle;
        a
            quarter is chance.
        interval: its bootstrap interval.
        triads: how many triads there were.
        tied: complete triads with a tie, which are left out.
        majority: describers that beat each other in a circle over all neurons, each beating the next.
    """

    rate: float | None
    interval: tuple[float, float] | None
    triads: int
    tied: int
    majority: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class ControlCheck:
    """How a control fared against the real methods.

    Attributes:
        control: its name.
        win_rate: share of its comparisons with real methods that it won, ties as half.
        interval: its bootstrap interval.
        comparisons: decided comparisons with real methods.
        beats: real methods that it beats significantly, after Holm's correction.
    """

    control: str
    win_rate: float | None
    interval: tuple[float, float] | None
    comparisons: int
    beats: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """Whether controls, which know nothing of the neuron, lose as they must.

    Attributes:
        trustworthy: whether all controls clearly lose to the real methods; none if that was not tried.
        words: the same as a sentence, with reasons.
        limit: win rate that no control's interval may reach.
        controls: one for each control, by name.
    """

    trustworthy: bool | None
    words: str
    limit: float
    controls: tuple[ControlCheck, ...]


@dataclass(frozen=True)
class Board:
    """Rows by win rate (highest first, then by name), and the matrix behind them by name.

    Attributes:
        judge: whose verdicts these are; none for all judges together, each comparison counting once.
        rows: one for each describer of the run.
        cells: one for each ordered pair that was compared.
        tests: one for each unordered pair with a decided comparison.
        length: the effect of length.
        graph: what the comparisons join.
        cycles: transitivity.
        trust: whether controls lose.
    """

    judge: str | None
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]
    tests: tuple[PairTest, ...]
    length: LengthEffect
    graph: Graph
    cycles: Cycles
    trust: Trust

    @property
    def pairs(self) -> tuple[Cell, ...]:
        """Each compared pair once, ordered by the rows; the describer that is higher on the board comes first."""
        place = {row.describer: number for number, row in enumerate(self.rows)}
        cells = sorted(self.cells, key=lambda cell: (place[cell.row], place[cell.column]))
        return tuple(cell for cell in cells if place[cell.row] < place[cell.column])


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

    @property
    def failed(self) -> int:
        """Number of scores that are not usable."""
        return sum(self.statuses.values()) - self.scores


@dataclass(frozen=True)
class ScoreTest:
    """Whether a scorer grades one describer higher than another: paired by neuron.

    Attributes:
        scorer: the scorer.
        left: the one.
        right: the other.
        neurons: whole neurons on which both have a score.
        unpaired: whole neurons on which only one of them has.
        difference: mean over the neurons of the score of ``left`` less that of ``right``.
        difference_interval: its bootstrap interval.
        effect: the mean in standard deviations between neurons; none where neurons do not differ.
        p_value: of a two-sided permutation test by sign flips.
        p_holm: corrected for all pairs of the scorer.
    """

    scorer: str
    left: str
    right: str
    neurons: int
    unpaired: int
    difference: float
    difference_interval: tuple[float, float] | None
    effect: float | None
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class Concordance:
    """Whether a scorer ranks the describers as the comparisons do.

    Attributes:
        judge: whose comparisons; none for all judges together.
        scorer: the scorer.
        describers: how many have both a win rate and a score.
        tau: Kendall's tau-b between win rates and mean scores; none if one of them ties all.
        interval: its bootstrap interval, the same neurons drawn for both.
    """

    judge: str | None
    scorer: str
    describers: int
    tau: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Agreement:
    """How far judges agree on the same two descriptions of the same neuron (win, tie or loss), beyond chance.

    Attributes:
        judges: the judges: Cohen's kappa of two, Fleiss' of all where there are more.
        items: comparisons that at least two of them decided.
        equal: share of equal outcomes among their pairs of outcomes.
        kappa: the agreement beyond chance; which of two describers is named first has no part in it.
        interval: its bootstrap interval, clustered by neuron.
    """

    judges: tuple[str, ...]
    items: int
    equal: float | None
    kappa: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class LeftOutRow:
    """A describer when one judge is left out; its rank is by win rate."""

    describer: str
    win_rate: float | None
    interval: tuple[float, float] | None
    rank: int | None


@dataclass(frozen=True)
class LeftOut:
    """The ranking without one judge.

    Attributes:
        judge: who is left out.
        rows: the describers, in the order of the board of all judges.
        tau: Kendall's tau-b between win rates with and without this judge.
    """

    judge: str
    rows: tuple[LeftOutRow, ...]
    tau: float | None


@dataclass(frozen=True)
class BreakdownRow:
    """One describer on a part of the neurons, all judges together.

    Attributes:
        facet: how the neurons are divided, such as ``layer`` or ``kurtosis of out``.
        part: which part this is.
        describer: the describer.
        control: whether it is a control.
        win_rate: on these neurons; none if nothing was decided.
        interval: its bootstrap interval.
        comparisons: decided comparisons.
        failed: comparisons without a usable verdict.
        neurons: whole neurons with a decided comparison.
    """

    facet: str
    part: str
    describer: str
    control: bool
    win_rate: float | None
    interval: tuple[float, float] | None
    comparisons: int
    failed: int
    neurons: int


@dataclass(frozen=True)
class DescriptionRow:
    """What one describer wrote, from how much, and at what cost.

    Attributes:
        describer: its name.
        control: whether it is a control.
        mean_words: mean length of the ok descriptions in words (runs of non-space); none if there are none.
        median_words: their median length.
        mean_windows: windows of text that an ok description was made from, on average.
        mean_tokens: tokens of evidence that an ok description was made from, on average.
        statuses: count of descriptions of every status.
        usage: what the descriptions cost.
    """

    describer: str
    control: bool
    mean_words: float | None
    median_words: float | None
    mean_windows: float | None
    mean_tokens: float | None
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class Leaderboard:
    """Every statistic of a run.

    Attributes:
        seed: the seed of the bootstrap.
        draws: number of bootstrap samples.
        confidence: nominal coverage of the intervals.
        ridge: penalty of the Bradley-Terry model.
        neurons: number of neurons with at least one verdict.
        overall: all judges together.
        judges: one board for each judge, by name.
        health: one for each judge, by name.
        agreement: one for each pair of judges, by name; behind them all together, if they are more than two.
        left_out: one for each judge, by name, if there are several.
        scores: by scorer, then by mean (highest first), then by describer.
        score_tests: by scorer, then by pair.
        concordance: by judge, all together first, then by scorer.
        breakdown: by facet, part and describer.
        descriptions: by describer.
    """

    seed: int
    draws: int
    confidence: float
    ridge: float
    neurons: int
    overall: Board
    judges: tuple[Board, ...]
    health: tuple[JudgeHealth, ...]
    agreement: tuple[Agreement, ...]
    left_out: tuple[LeftOut, ...]
    scores: tuple[ScoreRow, ...]
    score_tests: tuple[ScoreTest, ...]
    concordance: tuple[Concordance, ...]
    breakdown: tuple[BreakdownRow, ...]
    descriptions: tuple[DescriptionRow, ...]

    @property
    def only_scores(self) -> bool:
        """Whether no judge compared: the scores are all there is to show, and the board is empty."""
        return bool(self.scores) and not self.judges

    def to_json(self) -> dict[str, Any]:
        """Return the leaderboard as plain JSON types, in a stable order."""
        return dataclasses.asdict(self)


def leaderboard_from_json(data: dict[str, Any]) -> Leaderboard:
    """Rebuild a leaderboard from what :meth:`Leaderboard.to_json` returned.

    Raises:
        KeyError, TypeError, ValueError: if ``data`` is no leaderboard, or one of another version.
    """
    return from_json(Leaderboard, data)


def leaderboard_schema() -> dict[str, Any]:
    """Return the JSON schema of ``leaderboard.json``, made from the types above; the package holds it as a file."""
    schema = TypeAdapter(Leaderboard).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
