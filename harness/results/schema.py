"""The tables of a leaderboard, as frozen dataclasses with a JSON form.

Metrics are rounded to six decimals. A metric without observations is None, never NaN and never zero.
:mod:`harness.results.columns` defines each metric; the docstrings here describe only the other fields.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from harness.records import Against, Usage, VectorKind, from_json


@dataclass(frozen=True)
class Row:
    """One describer on one board; :data:`harness.results.columns.BOARD` defines the metrics.

    Intervals are bootstrap intervals clustered by neuron, None with fewer than two neurons.

    Attributes:
        describer: its name.
        control: whether it is a control that a real method must beat.
    """

    describer: str
    control: bool
    win_rate: float | None
    interval: tuple[float, float] | None
    control_win_rate: float | None
    control_interval: tuple[float, float] | None
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
    noise_floor: float | None = None
    noise_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cell:
    """One describer against one other; :data:`harness.results.columns.PAIRS` defines the metrics.

    Attributes:
        row: the first describer, whose wins and win rate these are.
        column: its opponent.
        failures: number of single verdicts by status, for the failed comparisons (one may fail in both orders).
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
    """Paired permutation test of two describers by neuron; :data:`harness.results.columns.TESTS` defines the metrics.

    ``difference``, ``effect`` and the p-values use only the comparisons of the two with each other.
    ``overall_difference`` uses all opponents and can have the opposite sign.

    Attributes:
        left: the first describer.
        right: the second describer.
        effect: None where all neurons have the same difference.
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
    """Effect of the length of a description on the judges' preference.

    Attributes:
        effect: change of the log-odds in favour of the longer description at the largest difference in length; None if
            it cannot be estimated.
        interval: its bootstrap interval.
        longer_win_rate: win rate of the longer description where lengths differ, not adjusted.
        own_share: share of the variation in length that lies within pairs of describers; near 0, the effect cannot be
            estimated.
        comparisons: decided comparisons in which both lengths are known.
        unknown: decided comparisons in which a length is unknown.
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
    """Whether the comparisons connect the describers well enough to estimate strengths.

    Attributes:
        groups: describers connected by chains of comparisons; strengths need a single group.
        unbeaten: describers connected by chains of won points, strongest group first. With more than one group, the
            distance between groups depends on the ridge penalty. Empty if nothing was compared.
        words: a warning; empty if there is nothing to warn about.
    """

    groups: tuple[tuple[str, ...], ...]
    unbeaten: tuple[tuple[str, ...], ...]
    words: str


@dataclass(frozen=True)
class Cycles:
    """Transitivity of preferences on single neurons and over all neurons.

    Attributes:
        rate: share of triads (three describers, one judge, one neuron, no tie) with cyclic preferences; 1/4 by chance.
        interval: its bootstrap interval.
        triads: number of triads.
        tied: complete triads with a tie, which are not counted.
        majority: triples of describers, each of which beats the next over all neurons.
    """

    rate: float | None
    interval: tuple[float, float] | None
    triads: int
    tied: int
    majority: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class ControlCheck:
    """One control against the real methods.

    Attributes:
        control: its name.
        informed: whether it knows the neuron, and may win.
        win_rate: share of its comparisons with real methods that it won, ties as half.
        interval: its bootstrap interval.
        comparisons: decided comparisons with real methods.
        beats: real methods that it beats significantly, after Holm's correction.
    """

    control: str
    informed: bool
    win_rate: float | None
    interval: tuple[float, float] | None
    comparisons: int
    beats: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """Whether the controls lose to the real methods.

    Attributes:
        trustworthy: whether all controls clearly lose; None if this could not be tested.
        words: the same as a sentence, with reasons.
        limit: win rate that no control's interval may reach.
        controls: one check per control, by name.
    """

    trustworthy: bool | None
    words: str
    limit: float
    controls: tuple[ControlCheck, ...]


@dataclass(frozen=True)
class Board:
    """The metrics of one judge, or of all judges together.

    Attributes:
        judge: the judge; None for all judges together, each comparison counting once.
        side: side of the neurons that the judge or judges see; None if they see different sides, or it is not recorded.
        neurons: neurons (both signs counted once) with a comparison, failed ones included.
        rows: one per describer, by win rate (highest first), then by name.
        cells: one per ordered pair of describers that was compared, by name.
        tests: one per unordered pair with a decided comparison.
        length: effect of length.
        graph: connectedness of the comparisons.
        cycles: transitivity.
        trust: whether controls lose.
    """

    judge: str | None
    side: str | None
    neurons: int
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]
    tests: tuple[PairTest, ...]
    length: LengthEffect
    graph: Graph
    cycles: Cycles
    trust: Trust

    @property
    def title(self) -> str:
        """The judge and the side of the neurons that it sees."""
        side = f" ({self.side} side)" if self.side in ("input", "output") else ""
        return f"{'All judges together' if self.judge is None else f'Judge {self.judge}'}{side}"

    @property
    def pairs(self) -> tuple[Cell, ...]:
        """Each compared pair once, ordered by the rows; the describer that is higher on the board comes first."""
        place = {row.describer: number for number, row in enumerate(self.rows)}
        cells = sorted(self.cells, key=lambda cell: (place[cell.row], place[cell.column]))
        return tuple(cell for cell in cells if place[cell.row] < place[cell.column])

    @property
    def head_to_head(self) -> tuple[Cell, ...]:
        """The pairs of describers that know the neuron: real methods, and controls that are informed.

        All pairs if there are none of these.
        """
        blind = {check.control for check in self.trust.controls if not check.informed}
        return tuple(cell for cell in self.pairs if not blind & {cell.row, cell.column}) or self.pairs

    @property
    def against_controls(self) -> tuple[Cell, ...]:
        """The pairs that are not in :attr:`head_to_head`."""
        return tuple(cell for cell in self.pairs if cell not in self.head_to_head)


@dataclass(frozen=True)
class JudgeHealth:
    """One comparator; :data:`harness.results.columns.HEALTH` defines the metrics.

    Attributes:
        judge: its name.
        failed: comparisons without a usable verdict.
        inconsistent: decided comparisons whose two orders disagree.
        statuses: number of verdicts (single orders) by status.
        usage: cost of the verdicts.
    """

    judge: str
    comparisons: int
    ties: int
    failed: int
    inconsistent: int
    inconsistency: float | None
    first_position_rate: float | None
    people_kappa: float | None
    people_interval: tuple[float, float] | None
    people_items: int
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class ScoreRow:
    """One describer's scores by one scorer; :data:`harness.results.columns.SCORES` defines the metrics.

    Attributes:
        scorer: the scorer's name.
        describer: the describer's name.
        control: whether it is a control.
        mean: mean score; None without usable scores.
        interval: bootstrap interval of the mean, clustered by neuron; None with fewer than two neurons.
        polysemanticity: mean over the neurons with such a metric; None without any.
        statuses: number of scores by status.
        usage: cost of the scores.
    """

    scorer: str
    describer: str
    control: bool
    mean: float | None
    interval: tuple[float, float] | None
    scores: int
    statuses: dict[str, int]
    usage: Usage
    polysemanticity: float | None
    polysemanticity_interval: tuple[float, float] | None
    noise_floor: float | None = None
    noise_interval: tuple[float, float] | None = None

    @property
    def failed(self) -> int:
        """Number of scores that are not usable."""
        return sum(self.statuses.values()) - self.scores


@dataclass(frozen=True)
class ScoreTest:
    """Paired test of two describers by one scorer; :data:`harness.results.columns.SCORE_TESTS` defines the metrics.

    Attributes:
        scorer: the scorer.
        left: the first describer.
        right: the second describer.
        effect: None where all neurons have the same difference.
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
    """Agreement of a scorer's ranking with the ranking by comparisons.

    Attributes:
        judge: the judge of the comparisons; None for all judges together.
        scorer: the scorer.
        describers: number of describers with a win rate and a score.
        tau: Kendall's tau-b of win rates and mean scores; None if either ranking ties all describers.
        interval: its bootstrap interval, from the same samples of neurons for both.
    """

    judge: str | None
    scorer: str
    describers: int
    tau: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Agreement:
    """Agreement of judges on the outcome (win, tie or loss) of the same comparison, beyond chance.

    Attributes:
        judges: the judges: Cohen's kappa for two, Fleiss' kappa for more.
        items: comparisons that at least two of them decided.
        equal: share of equal outcomes among their pairs of outcomes.
        kappa: agreement beyond chance; does not depend on which describer is named first.
        interval: its bootstrap interval, clustered by neuron.
    """

    judges: tuple[str, ...]
    items: int
    equal: float | None
    kappa: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class LeftOutRow:
    """A describer when one judge is left out; the rank is by win rate."""

    describer: str
    win_rate: float | None
    interval: tuple[float, float] | None
    rank: int | None


@dataclass(frozen=True)
class LeftOut:
    """The ranking without one judge.

    Attributes:
        judge: the judge that is left out.
        rows: the describers, in the order of the board of all judges.
        tau: Kendall's tau-b of the win rates with and without this judge.
    """

    judge: str
    rows: tuple[LeftOutRow, ...]
    tau: float | None


@dataclass(frozen=True)
class BreakdownRow:
    """One describer on a part of the neurons, all judges together.

    Attributes:
        facet: how the neurons are divided, such as ``layer`` or ``kurtosis of out``.
        part: the part.
        describer: the describer.
        control: whether it is a control.
        win_rate: on these neurons; None if nothing was decided.
        interval: its bootstrap interval.
        comparisons: decided comparisons.
        failed: comparisons without a usable verdict.
        neurons: neurons (both signs counted once) with a decided comparison.
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
    """The descriptions of one describer; :data:`harness.results.columns.WRITING` defines the metrics.

    Words are runs of non-space characters; means are over the usable descriptions, None if there are none.

    Attributes:
        describer: its name.
        control: whether it is a control.
        statuses: number of descriptions by status.
        usage: cost of the descriptions.
    """

    describer: str
    control: bool
    mean_words: float | None
    median_words: float | None
    mean_windows: float | None
    mean_tokens: float | None
    repeated: float | None
    mean_parts: float | None
    missing_parts: int
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class ExplainerRow:
    """The explainer on planted concepts; :data:`harness.results.columns.EXPLAINER` defines the metrics.

    Attributes:
        describer: the describer whose prompts were used; None for all together.
        right: None without answers.
        interval: its bootstrap interval, clustered by concept; None with fewer than two concepts.
        statuses: number of answers by status.
        usage: cost of the answers.
    """

    describer: str | None
    right: float | None
    interval: tuple[float, float] | None
    chance: float | None
    answers: int
    unusable: int
    failed: int
    statuses: dict[str, int]
    usage: Usage


@dataclass(frozen=True)
class VarianceRow:
    """Variance components of a describer's results; :data:`harness.results.columns.VARIANCE` defines the metrics.

    A component is a share of ``total``, with its bootstrap interval, clustered by neuron. Components that cannot be
    estimated are None. Estimates are unbiased, so small ones can be negative. All but ``asked_again`` add up to 1.

    Attributes:
        measure: ``win_rate``, ``win_rate/SIDE`` if judges see different sides of the neurons, or the name of a scorer.
        describer: its name.
        control: whether it is a control.
        neurons: neurons with a value.
        draws: descriptions of each neuron.
        judges: number of judges.
        prompts: number of prompts of all judges.
        total: sum of the components, in squared units of the values.
        words: which components include others that could not be separated from them; empty if none does.
    """

    measure: str
    describer: str
    control: bool
    neurons: int
    draws: int
    judges: int
    prompts: int
    total: float | None
    neuron: float | None
    neuron_interval: tuple[float, float] | None
    draw: float | None
    draw_interval: tuple[float, float] | None
    judge: float | None
    judge_interval: tuple[float, float] | None
    prompt: float | None
    prompt_interval: tuple[float, float] | None
    neuron_by_judge: float | None
    neuron_by_judge_interval: tuple[float, float] | None
    residual: float | None
    residual_interval: tuple[float, float] | None
    asked_again: float | None
    asked_again_interval: tuple[float, float] | None
    words: str


@dataclass(frozen=True)
class StabilityRow:
    """Further descriptions compared with the first; :data:`harness.results.columns.STABILITY` defines the metrics.

    Attributes:
        describer: its name.
        control: whether it is a control.
        evidence: ``same`` or ``resampled``, the evidence of the further descriptions.
        draws: number of further descriptions of each neuron.
        interval: bootstrap interval of the similarity, clustered by neuron; None with fewer than two neurons.
    """

    describer: str
    control: bool
    evidence: str
    draws: int
    pairs: int
    similarity: float | None
    interval: tuple[float, float] | None
    chance: float | None
    same: float | None
    failed: int


@dataclass(frozen=True)
class ShiftRow:
    """A describer judged on two corpora; :data:`harness.results.columns.SHIFT` defines the metrics.

    Intervals are bootstrap intervals clustered by neuron, None with fewer than two neurons.

    Attributes:
        measure: ``win_rate``, or the name of a scorer.
        describer: its name.
        control: whether it is a control.
    """

    measure: str
    describer: str
    control: bool
    own: float | None
    own_interval: tuple[float, float] | None
    other: float | None
    other_interval: tuple[float, float] | None
    shift: float | None
    shift_interval: tuple[float, float] | None


@dataclass(frozen=True)
class AlignmentRow:
    """Alignment of the neurons of one layer with tokens; :data:`harness.results.columns.ALIGNMENT` defines the metrics.

    Attributes:
        layer: the layer.
        kind: the weight vector that is projected.
        against: what is correlated: ``current`` or ``next`` for ``in`` and ``gate``, ``effect`` for ``out``.
        aligned: whether a list of tokens can describe these neurons (:mod:`harness.results.alignment`); None with fewer
            than two neurons.
    """

    layer: int
    kind: VectorKind
    against: Against
    neurons: int
    undefined: int
    mean_abs: float | None
    interval: tuple[float, float] | None
    share: float | None
    control: float | None
    above_control: float | None
    above_interval: tuple[float, float] | None
    aligned: bool | None


@dataclass(frozen=True)
class Leaderboard:
    """All statistics of a run.

    Attributes:
        seed: seed of the bootstrap.
        draws: number of bootstrap samples.
        confidence: nominal coverage of the intervals.
        ridge: penalty of the Bradley-Terry model.
        neurons: number of neurons with a verdict.
        overall: all judges together.
        judges: one board per judge, by name.
        health: one per comparator, by name.
        agreement: one per pair of judges, by name; then all judges together if there are more than two.
        left_out: one per judge, by name, if there are several.
        scores: by scorer, then by mean (highest first), then by describer.
        score_tests: by scorer, then by pair.
        concordance: by judge, all together first, then by scorer.
        breakdown: by facet, part and describer.
        descriptions: by describer.
        explainer: the explainer on planted concepts: all describers together, then by describer. Empty if the run has
            no explainer, or did not check it.
        alignment: by layer, kind and what is correlated; empty without text.
        variance: by measure and describer; empty if there is one judge with one prompt and no further descriptions.
        stability: by evidence and describer; empty without further descriptions.
        corpus_shift: by measure and describer; empty unless judges see another corpus than describers.
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
    explainer: tuple[ExplainerRow, ...]
    alignment: tuple[AlignmentRow, ...]
    variance: tuple[VarianceRow, ...] = ()
    stability: tuple[StabilityRow, ...] = ()
    corpus_shift: tuple[ShiftRow, ...] = ()

    @property
    def shown(self) -> tuple[Board, ...]:
        """The board of all judges together; one board per judge if they see different sides of the neurons."""
        sides = {board.side for board in self.judges}
        return self.judges if len(sides) > 1 and None not in sides else (self.overall,)

    @property
    def only_scores(self) -> bool:
        """Whether the run has scores but no comparisons, so that the board is empty."""
        return bool(self.scores) and not self.judges

    def to_json(self) -> dict[str, Any]:
        """Return the leaderboard as plain JSON types, in a stable order."""
        return dataclasses.asdict(self)


def leaderboard_from_json(data: dict[str, Any]) -> Leaderboard:
    """Rebuild a leaderboard from the result of :meth:`Leaderboard.to_json`.

    Raises:
        ValueError: if ``data`` is not a leaderboard of this version.
    """
    return from_json(Leaderboard, data)
