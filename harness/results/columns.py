"""Every metric, defined once: key, headings, definition, format and where it is shown.

All tables (CSV, Markdown, LaTeX, terminal, HTML), the summary of a run in W&B, the metrics that a sweep can optimise
and ``docs/metrics.md`` are made from the lists below. A new metric needs a field in :mod:`harness.results.schema`, the
code that computes it, and one entry here. ``python -m harness.results.columns > docs/metrics.md`` updates the document.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Literal

from harness.results.formatting import count, interval, number, p_value, percent, rank, significant, yes_no

CSV = "CSV"
TEXT = "Markdown and LaTeX"
TERMINAL = "terminal"
HTML = "report"
COUNTS = "report (counts)"
SWEEP = "sweep.csv and sweep.json"
SUMMARY = "summary"
_EVERYWHERE = (CSV, TEXT, TERMINAL, HTML, SWEEP, SUMMARY)

_decimals_3 = partial(number, digits=3)
_decimals_1 = partial(number, digits=1)
_whole = partial(number, digits=0)
_signed = partial(number, sign=True)


@dataclass(frozen=True)
class Metric:
    """One metric of a row.

    Attributes:
        key: name in CSV files and in the summary.
        heading: heading in the report, in Markdown and in LaTeX.
        definition: what it means: the tooltip of the heading, and the documentation.
        format: turns a value, or None, into text.
        shown: where it is shown.
        short: heading in the terminal; by default ``heading``.
        interval: name of the field that holds its confidence interval, if it has one.
        interval_in_text: how Markdown, LaTeX and the terminal show the interval: in a column of its own, behind the
            value, or not at all.
        source: attribute of the row that holds the value; by default ``key``.
        needs: what a run or judge must have for the metric to exist; see :func:`available`.
        bold: whether the report prints it in bold.
        optional: whether tables leave it out if no row has a value.
    """

    key: str
    heading: str
    definition: str
    format: Callable[[Any], str] = number
    shown: Collection[str] = field(default=())
    short: str = ""
    interval: str | None = None
    interval_in_text: Literal["column", "inline", ""] = ""
    source: str = ""
    needs: Set[str] = frozenset()
    bold: bool = False
    optional: bool = False

    @property
    def title(self) -> str:
        """The heading with a capital letter, but for abbreviations such as ``n`` and ``p, Holm``."""
        return self.heading if self.heading[1:2] in ("", ",") else self.heading[0].upper() + self.heading[1:]

    def value(self, row: Any) -> Any:
        """Return the metric's value in a row, as it was computed."""
        return attrgetter(self.source or self.key)(row)

    def bounds(self, row: Any) -> tuple[Any, Any] | None:
        """Return the lower and upper bound of its interval in a row, or None."""
        found: tuple[Any, Any] | None = getattr(row, self.interval) if self.interval else None
        return found

    def text(self, row: Any) -> str:
        """Return its value in a row as text, without the interval."""
        return self.format(self.value(row))

    def interval_text(self, row: Any) -> str:
        """Return its interval in a row as text, such as ``44.8 to 62.5``; empty if there is none."""
        return interval(self.bounds(row), self.format, missing="")

    def headings(self, confidence: float, *, short: bool = False) -> list[str]:
        """Return the headings of its columns in Markdown and LaTeX, or the short ones of the terminal."""
        heading = (self.short or self.title) if short else self.heading
        return [heading, f"{100 * confidence:g} % interval"] if self.interval_in_text == "column" else [heading]

    def cells(self, row: Any) -> list[str]:
        """Return the cells below :meth:`headings`."""
        text, bounds = self.text(row), self.bounds(row)
        if self.interval_in_text == "column":
            return [text, interval(bounds, self.format)]
        if self.interval_in_text == "inline" and bounds is not None:
            return [f"{text} ({'–'.join(map(self.format, bounds))})"]
        return [text]

    def csv_names(self) -> list[str]:
        """Return the names of its columns in CSV files: itself and the bounds of its interval."""
        stem = "" if self.interval is None else self.interval.removesuffix("interval")
        return [self.key, stem + "low", stem + "high"] if self.interval else [self.key]

    def csv_values(self, row: Any) -> list[Any]:
        """Return the values of :meth:`csv_names`."""
        return [self.value(row), *(self.bounds(row) or (None, None))] if self.interval else [self.value(row)]


def shown_in(metrics: Iterable[Metric], place: str, rows: Iterable[Any] | None = None) -> list[Metric]:
    """Return the metrics that are shown in a place, in the order of their table.

    Args:
        metrics: the table's metrics.
        place: where it is shown.
        rows: its rows, to leave out optional metrics that none of them has; None to keep these.
    """
    found = [metric for metric in metrics if place in metric.shown]
    if rows is None:
        return found
    given = list(rows)
    return [one for one in found if not one.optional or any(one.value(row) is not None for row in given)]


def available(metrics: Iterable[Metric], conditions: Set[str] | None) -> list[Metric]:
    """Return the metrics of the summary whose needs are all among the conditions; all of them without conditions."""
    return [metric for metric in shown_in(metrics, SUMMARY) if conditions is None or metric.needs <= conditions]


def _diagnostic(
    key: str, heading: str, definition: str, shown_as: Callable[[Any], str] = number, *, terminal: bool = False
) -> Metric:
    return Metric(key, heading, definition, shown_as, (*[TERMINAL] * terminal, HTML, SUMMARY))


def _on_text(key: str, heading: str, definition: str) -> Metric:
    return Metric(key, heading, definition, number, (HTML, SUMMARY), interval=f"{key}_interval")


# fmt: off
BOARD = (
    Metric("rank", "rank", "Rank by strength, 1 for the best. Its interval: the ranks when neurons are resampled.",
           rank, _EVERYWHERE, interval="rank_interval", interval_in_text="inline", bold=True),
    Metric("win_rate", "win rate %", "Share of its decided comparisons with real methods that it won, ties as half; "
           "with all describers if there are fewer than two real methods. Two orders that disagree are a tie.",
           percent, _EVERYWHERE, short="Win %", interval="interval", interval_in_text="column", bold=True),
    Metric("control_win_rate", "against controls %", "The same against the controls that know nothing of the neuron: "
           "close to 100 if the judge sees what the descriptions say. Counts in no other metric.",
           percent, (CSV, TEXT, HTML, SWEEP, SUMMARY), interval="control_interval"),
    Metric("raw_win_rate", "raw %", "Win rate over single verdicts: each order counts by itself, also where the other "
           "order failed or disagrees.", percent, (CSV, HTML)),
    Metric("adjusted_win_rate", "at equal length %", "Win rate if all descriptions were equally long "
           "(length-controlled). None if length cannot be separated from the describer.",
           percent, _EVERYWHERE, short="Adj. %", interval="adjusted_interval"),
    Metric("strength", "strength", "Bradley-Terry strength in logits, zero on average. None if comparisons do not "
           "connect all describers.", number, (CSV, TEXT, HTML, SWEEP, SUMMARY), interval="strength_interval"),
    Metric("best", "best in %", "Share of the bootstrap samples in which no describer is stronger.",
           percent, (CSV, COUNTS)),
    Metric("comparisons", "decided", "Decided comparisons that count for the win rate: wins + losses + ties.",
           count, (CSV, TEXT, TERMINAL, HTML, COUNTS, SWEEP), short="n"),
    Metric("wins", "won", "Comparisons won.", count, (CSV, COUNTS)),
    Metric("losses", "lost", "Comparisons lost.", count, (CSV, COUNTS)),
    Metric("ties", "tied", "Comparisons tied, including the inconsistent ones.", count, (CSV, COUNTS)),
    Metric("inconsistent", "inconsistent", "Ties because the two orders disagreed.", count, (CSV, COUNTS)),
    Metric("failed", "failed", "Comparisons without a usable verdict. They count nowhere else.",
           count, (CSV, TEXT, TERMINAL, HTML, COUNTS, SWEEP)),
    Metric("mean_words", "words", "Mean length of its usable descriptions in words.", _decimals_1, (CSV, TEXT, COUNTS)),
    Metric("noise_floor", "shuffled weights %", "Its win rate in the same run on shuffled weights "
           "(statistics.noise_floor), where nothing can be found.", percent, (CSV, TEXT, HTML),
           interval="noise_interval", optional=True),
)
"""Of a describer on a board (:class:`~harness.results.schema.Row`)."""

PAIRS = (
    Metric("win_rate", "win rate %", "Share of the decided comparisons of the two that the first one won, ties as "
           "half.", percent, (TEXT, HTML), interval="interval", interval_in_text="column"),
    Metric("comparisons", "decided", "Decided comparisons of the two.", count, (TEXT, HTML)),
    Metric("wins", "wins", "Comparisons that the first one won.", count, (TEXT, TERMINAL, HTML), short="Won"),
    Metric("losses", "losses", "Comparisons that the first one lost.", count, (TEXT, TERMINAL, HTML), short="Lost"),
    Metric("ties", "ties", "Ties among them.", count, (TEXT, TERMINAL, HTML), short="Tied"),
    Metric("wins_to_losses", "wins : losses", "Wins of the first one divided by its losses; ties count for neither. "
           "None without losses.",
           number, (TEXT, TERMINAL, HTML, SUMMARY), short="W : L", interval="wins_to_losses_interval",
           interval_in_text="inline"),
    Metric("failed", "failed", "Comparisons of the two without a usable verdict.", count, (TEXT, TERMINAL, HTML)),
)
"""Of two describers on a board, the first against the second (:class:`~harness.results.schema.Cell`)."""

TESTS = (
    Metric("neurons", "neurons", "Neurons with a decided comparison of the two.", count, (HTML,)),
    Metric("difference", "difference, points of %", "Share of the comparisons of the two that the first one won, minus "
           "the share that it lost.", percent, (HTML,), interval="difference_interval"),
    Metric("overall_difference", "overall", "Difference of their win rates against all opponents, in points of %.",
           percent, (HTML,), interval="overall_interval"),
    Metric("effect", "effect", "Mean difference in standard deviations between neurons (Cohen's d).", number, (HTML,)),
    Metric("p_value", "p", "p-value of the two-sided permutation test, paired by neuron.", p_value, (HTML,)),
    Metric("p_holm", "p, Holm", "p-value corrected for all pairs of the table (Holm).", p_value, (HTML,)),
)
"""Of a paired test of two describers (:class:`~harness.results.schema.PairTest`)."""

WRITING = (
    Metric("median_words", "words", "Median length of its usable descriptions in words.", _whole, (HTML,)),
    Metric("mean_windows", "windows", "Mean number of text windows behind a description.", _decimals_1, (HTML,)),
    Metric("mean_tokens", "tokens", "Mean number of evidence tokens behind a description.", _whole, (HTML,)),
    Metric("repeated", "same text %", "Share of its usable descriptions with the same words, in the same order, as its "
           "description of another neuron; case and punctuation do not count.", percent, (HTML, SUMMARY)),
    Metric("mean_parts", "parts", "Mean number of parts of its usable descriptions: 1 for a single text.",
           _decimals_1, (HTML, SUMMARY)),
    Metric("missing_parts", "missing parts", "Parts that it asked an LLM for and did not get, in its usable "
           "descriptions.", count, (HTML, SUMMARY)),
    Metric("calls", "LLM calls", "LLM calls for all its descriptions.", count, (HTML,), source="usage.calls"),
)
"""Of the descriptions of a describer (:class:`~harness.results.schema.DescriptionRow`)."""

SCORES = (
    Metric("score", "mean score", "Mean of the usable scores, in the scorer's own unit; higher is better.",
           _decimals_3, (TEXT, TERMINAL, HTML, SUMMARY), short="Mean", interval="interval", interval_in_text="column",
           source="mean", bold=True),
    Metric("scores", "scores", "Usable scores.", count, (TEXT, TERMINAL, HTML), short="n"),
    Metric("failed", "failed", "Scores that are not usable. They count nowhere else.", count, (TEXT, TERMINAL, HTML)),
    Metric("polysemanticity", "other parts %", "Polysemanticity: the share of the explained active windows that need "
           "another part of the description than the one that explains most of them. Mean over the neurons described "
           "by several parts.", percent, (TEXT, TERMINAL, HTML, SUMMARY), interval="polysemanticity_interval",
           interval_in_text="inline", optional=True),
    Metric("noise_floor", "shuffled weights", "Its mean score in the same run on shuffled weights "
           "(statistics.noise_floor), where nothing can be found.", _decimals_3, (TEXT, HTML),
           interval="noise_interval", optional=True),
)
"""Of a describer graded by a scorer (:class:`~harness.results.schema.ScoreRow`)."""

SCORE_TESTS = (
    Metric("neurons", "neurons", "Neurons on which both have a usable score.", count, (HTML,)),
    Metric("unpaired", "unpaired", "Neurons on which only one of them has.", count, (HTML,)),
    Metric("difference", "difference", "Mean over neurons of the score of the first minus that of the second.",
           _decimals_3, (HTML,), interval="difference_interval"),
    *TESTS[3:],
)
"""Of a paired test of two describers by a scorer (:class:`~harness.results.schema.ScoreTest`)."""

HEALTH = (
    Metric("comparisons", "decided", "Decided comparisons.", count, (HTML,)),
    Metric("ties", "ties", "Ties among them.", count, (HTML,)),
    Metric("inconsistency", "inconsistent %", "Share of the comparisons decided in both orders in which the orders "
           "disagree.", percent, (HTML, SUMMARY), needs={"both orders", "top level"}),
    Metric("first_position_rate", "first place %", "Share of the verdicts with a winner that the description shown "
           "first won; 50 is no preference.", percent, (HTML, SUMMARY), needs={"both orders", "top level"}),
    Metric("people_kappa", "kappa with people", "Cohen's kappa with the labels of people, on the comparisons that both "
           "decided: 1 is perfect agreement, 0 is chance.",
           number, (HTML, SUMMARY), interval="people_interval", needs={"people", "top level"}),
    Metric("people_items", "labelled", "Comparisons that it and people decided.", count, (HTML,)),
)
"""Of a comparator (:class:`~harness.results.schema.JudgeHealth`)."""

CHECKS = (
    Metric("accuracy", "right %", "Share decided for the better description, where the better one is known, ties as "
           "half; 50 is guessing.",
           percent, (TERMINAL, HTML, SUMMARY), interval="interval", interval_in_text="column",
           needs={"known quality"}, bold=True),
    Metric("brier", "Brier", "Brier score of its preferences where the better description is known; 0 is perfect, 0.25 "
           "is no knowledge.", number, (TERMINAL, HTML, SUMMARY), needs={"known quality"}),
    Metric("comparisons", "known pairs", "Decided comparisons of known quality.", count, (TERMINAL, HTML), short="n"),
    Metric("failed", "failed", "Such comparisons without a usable verdict.", count, (TERMINAL, HTML)),
    Metric("consistency", "orders agree %", "Share of the comparisons asked in both orders whose orders agree.",
           percent, (TERMINAL, HTML, SUMMARY), needs={"both orders", "checked", "comparator"}),
    Metric("first_position_rate", "first place %", "Share of the verdicts with a winner that the description shown "
           "first won; 50 is no preference.", percent, (TERMINAL, HTML), short="First wins %"),
    Metric("length_effect", "longer", "How much more often than half the longer of two equally good descriptions wins.",
           _signed, (TERMINAL, HTML, SUMMARY), interval="length_interval", needs={"known quality"}),
    Metric("self_preference", "own", "How much more often it prefers what its own model wrote than is right.",
           _signed, (TERMINAL, HTML, SUMMARY), short="Self", interval="self_interval",
           needs={"LLM", "checked", "comparator"}),
    Metric("retest", "again", "Comparators: share of verdicts that stay the same when asked again with another seed. "
           "Scorers: correlation of the first and second scores.",
           number, (TERMINAL, HTML, SUMMARY), needs={"retest"}),
)
"""Of a judge where the truth is known or it was asked again (:class:`~harness.results.judge_checks.JudgeCheck`)."""

EXPLAINER = (
    Metric("right", "named %", "Share of the explainer's answers that name the planted concept. Unusable answers "
           "count as not naming it.",
           percent, (TEXT, TERMINAL, HTML, SUMMARY), interval="interval", interval_in_text="column", bold=True),
    Metric("chance", "by chance %", "The same answers compared with the other concepts: the mean share of these that "
           "an answer names. An explainer that ignores the evidence names no more than this.",
           percent, (TEXT, TERMINAL, HTML, SUMMARY)),
    Metric("answers", "answers", "Answers of the explainer, usable or not.", count, (TEXT, TERMINAL, HTML)),
    Metric("unusable", "unusable", "Answers that are not usable: degenerate, refused, truncated or unparsed.",
           count, (TEXT, TERMINAL, HTML, SUMMARY)),
    Metric("failed", "failed", "Planted concepts without an answer. They count nowhere else.",
           count, (TEXT, TERMINAL, HTML)),
)
"""Of the explainer on planted concepts, with a describer's prompts (:class:`~harness.results.schema.ExplainerRow`)."""

COSTS = (
    Metric("calls", "LLM calls", "LLM calls, including those answered by the cache.", count, (SUMMARY,)),
    Metric("prompt_tokens", "tokens in", "Tokens of the prompts.", count, (SUMMARY,)),
    Metric("completion_tokens", "tokens out", "Tokens of the answers.", count, (SUMMARY,)),
    Metric("seconds", "seconds", "Time from question to answer in seconds, summed over items that ran at the same "
           "time.", _decimals_1, (SUMMARY,), needs={"all roles"}),
    Metric("cost", "price", "Price of all tokens.", number, (SUMMARY,), needs={"one role", "price"}),
    Metric("total", "price", "Price of all tokens.",
           number, (SUMMARY,), source="cost", needs={"all roles", "price"}),
    Metric("paid", "paid", "Price of the tokens that no cache answered.",
           number, (SUMMARY,), needs={"price"}),
)
"""Of a run or of one LLM role in it (:class:`~harness.records.RoleUsage`)."""

ON_TEXT = (
    _diagnostic("text_ablated", "vectors", "Vectors from which channels were removed while the model read held-out "
                "text.", count),
    _diagnostic("text_positions", "positions", "Positions of the channels' own tokens in that text (gate, in), and "
                "active tokens whose logits were compared (out), over all channels.", count),
    _on_text("text_faithful", "channel", "Share of the neuron's response on a channel's tokens that is lost without "
             "the channel. [R] calls this faithful."),
    _on_text("text_random", "random direction", "The same without a random direction as close to the vector."),
    _on_text("text_another", "another channel", "The same without another channel of the vector."),
    _on_text("text_embedding", "mean embedding", "The same without the mean embedding of the channel's top tokens."),
    _on_text("text_elsewhere", "channel, elsewhere", "Share of the response on other active tokens that is lost "
             "without the channel."),
    _on_text("text_complete", "all channels", "Share of the response on all active tokens that is lost without all "
             "channels. [R] calls this complete."),
    _on_text("text_complete_random", "all random directions", "The same without all the random directions."),
)
"""Of ablations on held-out text, by layer and kind; :mod:`harness.run.text_ablation` has the protocol."""

DIAGNOSTICS = (
    _diagnostic("vectors", "vectors", "Weight vectors that were decomposed.", count, terminal=True),
    _diagnostic("found", "channels", "Channels of all vectors together.", count, terminal=True),
    _diagnostic("channels", "most channels", "Largest number of channels of one vector.", count),
    _diagnostic("vector_kurtosis", "kurtosis: vector", "Median excess kurtosis of the weight vectors.",
                terminal=True),
    _diagnostic("first_kurtosis", "kurtosis: channel 1", "Median excess kurtosis of the first channels.",
                terminal=True),
    _diagnostic("first_cosine", "cosine: channel 1", "Mean cosine of the first channels and their vectors."),
    _diagnostic("cosine", "cosine", "Mean cosine of all channels and their vectors.", terminal=True),
    _diagnostic("reconstruction", "in span %", "Mean share of a vector's squared norm in the span of all its channels.",
                percent, terminal=True),
    _diagnostic("positive", "upper tail %", "Share of channels carried by the upper tail of their projection.",
                percent),
    _diagnostic("again", "again", "Vectors that were decomposed again from another start.", count),
    _diagnostic("consistency", "cosine of partners", "Mean cosine of matched channels of two starts."),
    _diagnostic("jaccard", "Jaccard", "Mean Jaccard index of the top tokens of matched channels."),
    _diagnostic("apart", "cosine of others", "Mean cosine of channels that are not matched."),
    _diagnostic("random", "random vectors", "Random vectors that were decomposed.", count),
    _diagnostic("random_first_kurtosis", "random kurtosis", "Median excess kurtosis of their first channels.",
                _decimals_1),
    _diagnostic("first_loss", "loss", "Median loss of the first channels of neurons.", _decimals_3),
    _diagnostic("random_first_loss", "random loss", "Median loss of random vectors' first channels.", _decimals_3),
    _diagnostic("below", "below 5 %", "Share of neurons whose first channel has a loss below the 5 % quantile of "
                "random vectors; 5 % by chance.", percent),
    _diagnostic("chance_below", "lower %", "Probability that a neuron's first channel has a lower loss than a random "
                "vector's; 50 % by chance.", percent),
    _diagnostic("ablated", "ablated", "Vectors from which channels were removed.", count),
    _diagnostic("faithful", "faithful", "Mean share of the response on a channel's tokens that is lost without the "
                "channel."),
    _diagnostic("faithful_chance", "faithful, chance", "The same for a random direction as close to the vector."),
    _diagnostic("random_faithful", "faithful, random", "The same for the channels of random vectors (as many as "
                "diagnostics.random_channels of each)."),
    _diagnostic("kept", "kept", "Mean share of the response on the other channels' tokens that remains without the "
                "channel."),
    _diagnostic("complete", "complete", "Mean share of the response on a vector's strongest tokens that is lost "
                "without all its channels."),
    _diagnostic("complete_chance", "complete, chance", "The same for as many random directions as close to the "
                "vector."),
    _diagnostic("random_complete", "complete, random", "The same for random vectors; None unless as many channels of "
                "each are searched (diagnostics.random_channels)."),
    *ON_TEXT,
)
"""Of the decomposition of one layer and kind, or of all (:class:`~harness.results.diagnostics.DiagnosticsRow`)."""

CLAIMS = (
    Metric("published", "published", "The published value, of another model.", str, (TEXT, TERMINAL, HTML)),
    Metric("value", "this run", "The value of this run, over all its layers and kinds.",
           significant, (TEXT, TERMINAL, HTML), interval="interval", interval_in_text="column", bold=True),
    Metric("vectors", "vectors", "Weight vectors behind it.", count, (TEXT, HTML)),
    Metric("control", "control", "The same where there is no neuron or no channel. A value that the control reaches as "
           "well does not show that channels are parts of a neuron.", significant, (TEXT, TERMINAL, HTML)),
    Metric("control_of", "of", "What the control is. Random vectors share mean and covariance with the layer's weight "
           "vectors. Random directions are as close to the vector as the channels.", str, (TEXT, TERMINAL, HTML)),
)
"""Of a published value next to the run's (:class:`~harness.results.claims.ClaimRow`)."""

ALIGNMENT = (
    Metric("neurons", "neurons", "Neurons with a correlation r.", count, (HTML, SUMMARY)),
    Metric("mean_abs", "mean |r|", "Mean size of r over the neurons. r: correlation over the tokens of the text of the "
           "activation with the projection of the current or the next token on the weight vector; for out, correlation "
           "over the vocabulary of the direct logit contribution with the measured effect.",
           number, (HTML, SUMMARY), interval="interval", bold=True),
    Metric("share", "above 0.2 %", "Share of neurons with |r| of at least 0.2.", percent, (HTML, SUMMARY)),
    Metric("control", "mean |r|, control", "Mean |r| with the vector of another neuron of the layer.",
           number, (HTML, SUMMARY)),
    Metric("above_control", "above control", "Mean |r| less that of the control.",
           number, (HTML, SUMMARY), interval="above_interval"),
    Metric("undefined", "undefined", "Neurons without r: activation or projection is constant.", count, (HTML,)),
    Metric("aligned", "aligned", "Whether mean |r| is at least 0.1 and the interval of the difference from the control "
           "is above zero: otherwise a list of tokens cannot describe these neurons.", yes_no, (HTML, SUMMARY)),
)
"""Of one layer, kind and what is correlated (:class:`~harness.results.schema.AlignmentRow`)."""


def _component(key: str, definition: str) -> Metric:
    return Metric(key, key.replace("_", " "), definition, percent, (TEXT, HTML), interval=f"{key}_interval",
                  interval_in_text="inline")


VARIANCE = (
    Metric("neurons", "neurons", "Neurons with a value.", count, (TEXT, HTML)),
    Metric("total", "variance", "Variance of a describer's win rate on a neuron, or of its score: the sum of all "
           "components, in squared units. The next columns are shares of it in %. Small ones can be negative.",
           partial(number, digits=4), (TEXT, HTML)),
    _component("neuron", "Share due to differences between neurons."),
    _component("draw", "Share due to differences between descriptions of a neuron from the same evidence "
               "(draws.repeated)."),
    _component("judge", "Share due to judges that differ on all neurons alike."),
    _component("prompt", "Share due to prompts of one judge that differ on all neurons alike."),
    _component("neuron_by_judge", "Share due to judges or prompts that differ on single neurons."),
    _component("residual", "Share due to everything else, such as judges that differ on single descriptions."),
    _component("asked_again", "The part of the residual that remains if a judge answers the same question with another "
               "seed (comparisons.retest=1)."),
)
"""Of what results vary with (:class:`~harness.results.schema.VarianceRow`)."""

STABILITY = (
    Metric("similarity", "similarity", "Mean Jaccard index of the tokens, with their signs, that a further description "
           "of a neuron and the first one name: 1 if they are the same.",
           number, (TEXT, HTML, SUMMARY), interval="interval", interval_in_text="inline", bold=True),
    Metric("chance", "by chance", "The same for the first description of a neuron and a further one of another neuron.",
           number, (TEXT, HTML, SUMMARY)),
    Metric("same", "same %", "Share of the further descriptions that name the same tokens as the first one.",
           percent, (TEXT, HTML, SUMMARY)),
    Metric("pairs", "pairs", "Further descriptions that were compared with the first one.", count, (TEXT, HTML)),
    Metric("failed", "failed", "Those without two usable descriptions. They count nowhere else.", count, (TEXT, HTML)),
)
"""Of further descriptions of the same neurons (:class:`~harness.results.schema.StabilityRow`)."""

SHIFT = (
    Metric("own", "own corpus", "Win rate or mean score on held-out text of the corpus that describers see.",
           _decimals_3, (TEXT, HTML, SUMMARY), interval="own_interval", interval_in_text="inline"),
    Metric("other", "other corpus", "The same on the corpus that only judges see (evidence.report_corpus); the other "
           "tables show this one.", _decimals_3, (TEXT, HTML, SUMMARY),
           interval="other_interval", interval_in_text="inline"),
    Metric("shift", "shift", "The second minus the first, by the same judges on the same neurons.",
           partial(number, digits=3, sign=True), (TEXT, HTML, SUMMARY), interval="shift_interval",
           interval_in_text="inline", bold=True),
)
"""Of a describer judged on two corpora (:class:`~harness.results.schema.ShiftRow`)."""

RUN = (
    Metric("best/describer", "best describer", "Real describer with the highest win rate.", str, (SUMMARY,)),
    Metric("best/win_rate", "best win rate", "Its win rate.", percent, (SUMMARY,)),
    Metric("trust/trustworthy", "trustworthy", "Whether all controls lose to the real methods; also trust/JUDGE/...",
           str, (SUMMARY,)),
    Metric("trust/words", "trust", "The same as a sentence, with reasons; also trust/JUDGE/...", str, (SUMMARY,)),
    Metric("failed/METHOD", "failed", "Answers of a describer or judge that are not usable.", count, (SUMMARY,)),
)
"""Of the run as a whole; only the summary has them."""
# fmt: on

#: Each table: title, metrics, and their names in the summary.
TABLES: Sequence[tuple[str, Sequence[Metric], str]] = (
    ("Leaderboard: one describer", BOARD, "{key}/DESCRIBER"),
    ("Head to head: one describer against another", PAIRS, "{key}/DESCRIBER/OPPONENT"),
    ("Paired tests of two describers", TESTS, ""),
    ("Descriptions of one describer", WRITING, "{key}/DESCRIBER"),
    (
        "The explainer on planted concepts, and with one describer's prompts as `explainer/DESCRIBER/...`",
        EXPLAINER,
        "explainer/{key}",
    ),
    ("Scores: one describer by one scorer", SCORES, "{key}/SCORER/DESCRIBER"),
    ("Paired tests of the scores", SCORE_TESTS, ""),
    ("Comparators", HEALTH, "judge/JUDGE/{key}"),
    ("Judges where the better description is known, or that were asked again", CHECKS, "judge/JUDGE/{key}"),
    ("Costs of the run, and of one LLM role as `cost/ROLE/...`", COSTS, "cost/{key}"),
    ("Decomposition", DIAGNOSTICS, "decomposition/{key}"),
    ("Published values of the decomposition, next to the run's", CLAIMS, ""),
    ("Alignment with tokens", ALIGNMENT, "alignment/LAYER/KIND/AGAINST/{key}"),
    ("What results vary with", VARIANCE, ""),
    ("Stability of descriptions, EVIDENCE is same or resampled", STABILITY, "{key}/EVIDENCE/DESCRIBER"),
    ("Shift between two corpora, MEASURE is win_rate or a scorer", SHIFT, "corpus_shift/MEASURE/DESCRIBER/{key}"),
    ("The run", RUN, "{key}"),
)


def documentation() -> str:
    """Return ``docs/metrics.md``: every metric, what it means, where it is shown and its name in the summary."""
    lines = [
        "# Metrics",
        "",
        "Every metric of the harness. Names under *summary* are keys of the W&B summary. A sweep can optimise",
        "the numeric ones (`sweep.metric=win_rate/rotate`). Replace words in capitals by names of the run.",
        "A metric without observations has no value (None, an empty field, or a dash), never zero.",
        "",
        "Generated from `harness/results/columns.py`; do not edit. The docstring of that module says how to update it.",
    ]
    for title, metrics, name in TABLES:
        lines += ["", f"## {title}", "", "| metric | key | meaning | shown in | summary |", "|---|---|---|---|---|"]
        for metric in metrics:
            places = ", ".join(place for place in dict.fromkeys(metric.shown) if place != SUMMARY)
            key = f"`{name.format(key=metric.key)}`" if SUMMARY in metric.shown else "–"
            meaning = metric.definition + (" With interval." if metric.interval else "")
            lines.append(f"| {metric.title} | `{metric.key}` | {meaning} | {places or '–'} | {key} |")
    return "\n".join(lines) + "\n"


def summary_values(
    metrics: Iterable[Metric], row: Any, name: str, conditions: Set[str] | None = None
) -> dict[str, Any]:
    """Return the :func:`available` metrics of a row under their names in the summary.

    Args:
        metrics: the row's metrics.
        row: the row.
        name: how they are named, with ``{key}`` for the metric's key.
        conditions: what the run or judge has; None to select by nothing.
    """
    return {name.format(key=metric.key): metric.value(row) for metric in available(metrics, conditions)}


if __name__ == "__main__":
    print(documentation(), end="")
