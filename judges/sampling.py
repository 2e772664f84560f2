"""Which windows scorers show, and how many windows of the report split each of them represents.

A metric on equally many active and silent windows does not notice that a description is too broad: what it names in
addition is rare, so no silent window shows it (arXiv:2506.05774). On a uniform sample the metric would notice, but a
rare neuron needs thousands of windows, and an LLM is asked about each. So the windows are drawn from groups, and each
window has a weight, the number of windows of the split that it represents (Horvitz and Thompson 1952; guided by the
descriptions as in arXiv:2506.07985):

- *active* windows, spread evenly over their activations;
- *predicted* windows: silent, but a description of the neuron in this run names tokens that are similar to theirs,
  first of all those that only one of the descriptions names;
- *hard* windows: silent, but their tokens are similar to those at which the neuron has its peaks;
- *other* windows: a uniform sample of all others.

All windows of the second and third group that are found are shown, so they represent only themselves and what the
random windows represent (:func:`report_sample`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray

from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import JudgeCase
from harness.records import Exemplar, Source, Split, Status
from harness.seeds import derive_rng
from harness.spread import spread
from harness.validation import METHOD, Count, CountOrZero, FractionOrZero
from judges.accuracy import Floats, auroc, average_precision, f1, f1_at_base_rate, pearson
from judges.evidence import excerpt, quiet
from judges.parts import Predicted, polysemanticity
from judges.prediction import TokenPredictor, TokenText
from judges.remembered import Identity, Remembered

_SAMPLES: Remembered[ReportSample] = Remembered(8)
_DRAWN: Remembered[Sample] = Remembered(64)
_PREDICTED: Remembered[Floats] = Remembered(256)


@dataclass(frozen=True, eq=False)
class ReportSample:
    """All windows that are known of the report split, for judges that look at every one of them.

    Attributes:
        windows: the top windows, highest activation first, then the random ones that are no top windows.
        weights: 1 for a top window, because no other window is as active as the last of them; for a random one the
            number of windows of the split that it represents.
    """

    windows: tuple[Exemplar, ...]
    weights: Floats

    @cached_property
    def text(self) -> TokenText:
        """Their tokens."""
        return TokenText([item.tokens for item in self.windows])

    @cached_property
    def peaks(self) -> Floats:
        """The highest activation of each window."""
        return np.array([item.activation for item in self.windows])

    @cached_property
    def activations(self) -> Floats:
        """The activations of all tokens, one after the other."""
        return np.array([value for item in self.windows for value in item.activations])

    @cached_property
    def token_weights(self) -> Floats:
        """The weight of each token's window, one after the other."""
        return np.repeat(self.weights, [len(item.tokens) for item in self.windows])


def report_sample(case: JudgeCase) -> ReportSample:
    """Return the windows of the report split with their weights; those of the latest neurons are remembered.

    Raises:
        Unanswered: if there is no random window that is not a top window.
    """
    return _SAMPLES.get((Identity(case.exemplars), case.report_windows), lambda: _report_sample(case))


def _report_sample(case: JudgeCase) -> ReportSample:
    top = case.windows(Split.REPORT, Source.TOP)
    known = {item.window for item in top}
    random = [item for item in case.windows(Split.REPORT, Source.RANDOM) if item.window not in known]
    if not random:
        raise Unanswered(Status.FAILED, "the report split has no random window")
    each = max(1.0, (case.report_windows - len(top)) / len(random))
    return ReportSample((*top, *random), np.array([1.0] * len(top) + [each] * len(random)))


def active_windows(case: JudgeCase, active_share: float) -> NDArray[np.bool_]:
    """Return which windows of :func:`report_sample` are active, by the rule of :class:`Sampler`.

    Raises:
        Unanswered: if none or all are.
    """
    peaks = report_sample(case).peaks
    if peaks.max() <= 0:
        raise Unanswered(Status.FAILED, "the neuron is never active on the report split")
    active = (peaks >= active_share * peaks.max()) & (peaks > max(quiet(case), 0.0))
    if not active.any():
        raise Unanswered(Status.FAILED, "no window of the report split is more active than the random ones")
    if active.all():
        raise Unanswered(Status.FAILED, "the report split has no silent window")
    return np.asarray(active)


def predicted_values(case: JudgeCase, description: str, predictor: TokenPredictor) -> Floats:
    """Return the value that a description predicts for each distinct token of :func:`report_sample`, (kinds,)."""
    key = Identity(case.exemplars), predictor, description, *as_read(case, description)
    return _PREDICTED.get(key, lambda: predictor.predict(case, description, report_sample(case).text))


def as_read(case: JudgeCase, description: str) -> tuple[Hashable, ...]:
    """Return what a case knows of a description besides its text, as part of a key: its tokens and its parts."""
    return case.tokens.get(description), case.parts.get(description)


@dataclass(frozen=True)
class Sample:
    """Windows of the report split.

    Attributes:
        windows: the active ones, highest activation first within each source; then predicted, hard and other ones.
        active: whether each one activates the neuron.
        hard: whether each one is a hard negative.
        weights: number of windows of the split that each one represents.
        centres: position of each window around which it is shown: its peak, or the token for which it was chosen.
    """

    windows: tuple[Exemplar, ...]
    active: NDArray[np.bool_]
    hard: NDArray[np.bool_]
    weights: Floats
    centres: tuple[int, ...]

    def excerpts(self, context: int) -> list[str]:
        """Return the text of each window around its centre, with ``context`` tokens on either side."""
        return [excerpt(item, context, centre) for item, centre in zip(self.windows, self.centres, strict=True)]

    @property
    def activations(self) -> Floats:
        """The peak of each window. Negative ones belong to the neuron's other sign and count as 0."""
        return np.array([max(item.activation, 0.0) for item in self.windows])

    def metrics(self, predicted: Predicted, threshold: float | None = None) -> dict[str, float]:
        """Return the metrics of predictions that rank the windows, estimated for the whole report split.

        Args:
            predicted: the predictions.
            threshold: prediction above which a part explains a window; None: see :func:`judges.parts.explained`.

        Returns:
            ``auprc``: average precision of the score for active windows, chance ``base``. ``f1``: F1 score if as many
            windows are called active as there are active ones. ``pearson``: correlation with the activation, from -1 to
            1. ``base``: share of active windows. ``auc`` and ``auc_hard``: AUC of the active against all silent and
            against the hard ones, chance 0.5. ``polysemanticity``: see :func:`judges.parts.polysemanticity`.
        """
        scores = predicted.best
        found = {
            "auprc": average_precision(self.active, scores, self.weights),
            "f1": f1_at_base_rate(self.active, scores, self.weights),
            "pearson": pearson(scores, self.activations, self.weights) or 0.0,
            "base": float(self.weights[self.active].sum() / self.weights.sum()),
            "auc": auroc(self.active, scores, self.weights),
        }
        if self.hard.any():
            some = self.active | self.hard
            found["auc_hard"] = auroc(self.active[some], scores[some], self.weights[some])
        return found | polysemanticity(predicted, self.active, self.weights, threshold)

    def answer_metrics(self, answers: Predicted, highest: int) -> dict[str, float]:
        """Return the metrics of answers from 0 to ``highest``; above the middle is yes.

        Returns:
            As :meth:`metrics`, but ``f1`` is that of the answers, and there is an ``auc`` only if ``highest`` is above
            1. ``recall``, ``specificity`` and ``specificity_hard``: share of the active, silent and hard windows with a
            right answer. ``balanced_accuracy``: mean of ``recall`` and ``specificity``.
        """
        said = answers.best > highest / 2
        found = self.metrics(answers, highest / 2)
        if highest == 1:
            for name in ("auc", "auc_hard"):
                found.pop(name, None)
        found["f1"] = f1(self.active, said, self.weights)
        found["recall"] = float(np.average(said[self.active], weights=self.weights[self.active]))
        found["specificity"] = float(np.average(~said[~self.active], weights=self.weights[~self.active]))
        found["balanced_accuracy"] = (found["recall"] + found["specificity"]) / 2
        if self.hard.any():
            found["specificity_hard"] = float(np.mean(~said[self.hard]))
        return found


@pydantic.dataclasses.dataclass(config=METHOD, eq=False)
class Sampler:
    """A judge that asks about windows: its options, and the windows that they draw for a case.

    The windows depend on the neuron and its rivals, not on the description that is judged. Judges inherit this class
    with their own defaults; ``conf/_shared/windows.yaml`` has the same options for their YAML files.

    Attributes:
        encoder: similarity of tokens is that of its static embeddings; None: only equal tokens are similar.
        active: number of active windows.
        predicted: maximum number of predicted windows, in turn for each description; at least as many as there are
            descriptions let each have one.
        hard: maximum number of hard windows.
        others: number of other silent windows.
        active_share: a window is active if its highest activation reaches this share of the highest one, and is above
            that of the lowest quarter of the random windows.
    """

    encoder: SentenceEncoder | None = None
    active: Count = 10
    predicted: CountOrZero = 15
    hard: CountOrZero = 5
    others: Count = 10
    active_share: FractionOrZero = 0.3

    def draw(self, case: JudgeCase) -> Sample:
        """Draw the windows.

        Raises:
            Unanswered: if the neuron has no active window, or no silent one.
        """
        options = tuple(getattr(self, option.name) for option in dataclasses.fields(Sampler))
        key = options, case.neuron, Identity(case.exemplars), case.rivals, case.report_windows, case.seed
        return _DRAWN.get(key, lambda: self._draw(case))

    def _draw(self, case: JudgeCase) -> Sample:
        report = report_sample(case)
        windows, weights = report.windows, report.weights
        peaks, active = report.peaks, active_windows(case, self.active_share)
        chosen: dict[int, float] = {}
        centres: dict[int, int] = {}
        hard: set[int] = set()

        def take(indices: Sequence[int], group: Sequence[int]) -> None:
            """Let some windows represent their whole group."""
            factor = weights[list(group)].sum() / weights[list(indices)].sum() if len(indices) else 0.0
            chosen.update((index, float(weights[index] * factor)) for index in indices)

        # Top windows represent themselves, random ones many others: each group gets a share by what it represents, and
        # at least one window unless only one is shown.
        top = _is_top(windows) | (self.active == 1)
        exact, drawn = (
            sorted(np.flatnonzero(active & group).tolist(), key=lambda index: (-peaks[index], index))
            for group in (top, ~top)
        )
        share = weights[exact].sum() / weights[exact + drawn].sum()
        many = min(len(exact), max(self.active - len(drawn), round(self.active * share), 1), self.active - bool(drawn))
        take(spread(exact, many), exact)
        take(spread(drawn, self.active - many), drawn)
        shown = [windows[index] for index in chosen]
        text, predictor, silent = report.text, TokenPredictor(self.encoder), np.flatnonzero(~active)
        rivals = _guides(
            [predicted_values(case, rival, predictor) for rival in (case.rivals if self.predicted else ())]
        )
        peak_tokens = list(dict.fromkeys(item.tokens[item.peak] for item in shown))
        similar = [predictor.similarity(peak_tokens, text)] if self.hard else []
        for count, guides in ((self.predicted, rivals), (self.hard, similar)):
            for index, guide in _in_turn([(_ranked(text.by_window(guide), silent), guide) for guide in guides]):
                if not count:
                    break
                if index not in chosen:
                    take([index], [index])
                    centres[index] = text.highest_in(index, guide)
                    hard.update([index] if guides is similar else [])
                    count -= 1
        rest = [int(index) for index in silent if index not in chosen]
        rng = derive_rng(case.seed, "other windows", case.neuron)
        take(sorted(rng.choice(rest, min(self.others, len(rest)), replace=False).tolist()) if rest else [], rest)
        return Sample(
            tuple(windows[index] for index in chosen),
            active[list(chosen)],
            np.array([index in hard for index in chosen]),
            np.array(list(chosen.values())),
            tuple(centres.get(index, windows[index].peak) for index in chosen),
        )


def hard_negatives(
    case: JudgeCase,
    encoder: SentenceEncoder | None,
    active: Sequence[Exemplar],
    silent: Sequence[Exemplar],
    descriptions: Sequence[str],
    count: int,
    context: int,
) -> list[Exemplar]:
    """Return silent windows that are easily taken for active ones, in turn: hard ones, and those that are predicted.

    Args:
        case: the neuron.
        encoder: as in :class:`Sampler`.
        active: the active windows, whose peaks make windows with similar tokens hard.
        silent: the silent windows to choose from, random windows of the report split.
        descriptions: the descriptions that are compared; their order does not matter.
        count: maximum number of windows.
        context: tokens kept on either side of the token for which a window was chosen.
    """
    report, predictor = report_sample(case), TokenPredictor(encoder)
    index_of = {item.window: index for index, item in enumerate(report.windows)}
    among = np.array([index_of[item.window] for item in silent], np.intp)
    peaks = list(dict.fromkeys(item.tokens[item.peak] for item in active))
    guides = [predictor.similarity(peaks, report.text)]
    guides += _guides([predicted_values(case, description, predictor) for description in sorted(descriptions)])
    found: dict[int, int] = {}
    for index, guide in _in_turn([(_ranked(report.text.by_window(guide), among), guide) for guide in guides]):
        if len(found) < count:
            found.setdefault(index, report.text.highest_in(index, guide))
    return [_around(report.windows[index], centre, context) for index, centre in found.items()]


def _around(window: Exemplar, centre: int, context: int) -> Exemplar:
    part = slice(max(0, centre - context), centre + context + 1)
    return dataclasses.replace(window, tokens=window.tokens[part], activations=window.activations[part])


def _guides(predicted: Sequence[Floats]) -> list[Floats]:
    """Return what each description predicts beyond all others, and then what each predicts."""
    differences = [
        own - np.max([other for at, other in enumerate(predicted) if at != place], axis=0)
        for place, own in enumerate(predicted)
        if len(predicted) > 1
    ]
    return [*differences, *predicted]


def _is_top(windows: Sequence[Exemplar]) -> NDArray[np.bool_]:
    return np.array([item.source is Source.TOP for item in windows])


def _ranked(scores: Floats, among: NDArray[np.intp]) -> list[int]:
    """Return the windows in ``among`` with a score above 0, highest first."""
    order = among[np.argsort(-scores[among], kind="stable")]
    return [int(index) for index in order if scores[index] > 0]


def _in_turn(rankings: Sequence[tuple[Sequence[int], Floats]]) -> Iterator[tuple[int, Floats]]:
    """Yield the first window of each ranking with its scores, then the second of each, and so on."""
    for place in range(max((len(ranking) for ranking, _ in rankings), default=0)):
        yield from ((ranking[place], scores) for ranking, scores in rankings if place < len(ranking))
