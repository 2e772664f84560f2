"""Judges without an LLM that predict values of every token from the tokens that a description names.

On the input side, the value is the neuron's activation at a token of the text; on the output side, the change of a
token's logit when the neuron is clamped.

Sources: Bills et al. 2023 (simulation: predict activations from a description, and correlate); "Evaluating Neuron
Explanations: A Unified Framework with Sanity Checks", arXiv:2506.05774 (Pearson's r and AUPRC over the whole
distribution notice labels that are missing or too many, while metrics on selected windows do not).

The prediction (:mod:`judges.prediction`) knows single tokens only. It fits neurons that respond to tokens, as those of
the first layers do, and scores descriptions of other neurons near 0 even if they are right.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import numpy as np

from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Side, Status
from harness.validation import Fraction, NonNegative, Positive, validated
from judges.accuracy import Floats, average_precision, pearson, preferred, varies
from judges.evidence import strongest_effect
from judges.parts import polysemanticity
from judges.prediction import TokenPredictor, TokenText
from judges.remembered import Identity, Remembered
from judges.sampling import active_windows, as_read, predicted_values, report_sample

Metric = Literal["pearson", "auprc"]
#: Share of the highest peak from which a window is active, as in the other judges by default.
ACTIVE_SHARE = 0.3
#: Descriptions whose metrics are kept.
REMEMBERED = 256


class TokenMatch:
    """Predicts activations of tokens, and compares them with the true ones.

    Args:
        predictor: predicts them.
        active_fraction: share of the tokens, those of highest activation, that AUPRC counts as active.
    """

    def __init__(self, predictor: TokenPredictor, active_fraction: float) -> None:
        self._predictor, self._active_fraction = predictor, active_fraction
        # A comparator compares each description with many others.
        self._known: Remembered[dict[str, float]] = Remembered(REMEMBERED)

    def metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        """Return the metrics of a description over all tokens of the report split.

        They are estimated from its top windows, which represent themselves, and its random ones, which represent all
        others (:func:`judges.sampling.report_sample`).

        Returns:
            ``pearson``: Pearson's r of predicted and true activations with their signs, from -1 to 1, chance 0; 0 if
            the prediction does not vary. ``auprc``: average precision of the prediction for the active tokens, from 0
            to 1; its chance level is ``base``, their share. ``constant``: 1 if the prediction does not vary, else 0.
            ``auprc`` and ``base`` are missing if no token is active. ``polysemanticity`` of a set: see
            :func:`judges.parts.polysemanticity`, with windows active from :data:`ACTIVE_SHARE` of the highest peak.

        Raises:
            Unanswered: if there are no random windows, or the activations do not vary.
        """
        key = Identity(case.exemplars), case.report_windows, description, *as_read(case, description)
        return dict(self._known.get(key, lambda: self._metrics(case, description)))

    def _metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        report = report_sample(case)
        values = predicted_values(case, description, self._predictor)[report.text.codes]
        found = self._compared(values, report.activations, report.token_weights)
        if found is None:
            raise Unanswered(Status.FAILED, "the neuron's activations do not vary over the report split")
        if description in case.parts:
            windows = self._predictor.by_part(case, description, report.text).map(report.text.by_window)
            with suppress(Unanswered):  # no active windows
                found |= polysemanticity(windows, active_windows(case, ACTIVE_SHARE), report.weights)
        return found

    def _compared(self, predicted: Floats, true: Floats, weights: Floats) -> dict[str, float] | None:
        """Return the metrics; None if the truth does not vary."""
        correlation = pearson(predicted, true, weights)
        if correlation is None:
            return None
        found = {"pearson": correlation, "constant": float(not varies(predicted))}
        order = np.argsort(-true, kind="stable")
        ranks = np.cumsum(weights[order]) - weights[order] / 2
        # The highest one always counts.
        count = max(1, int((ranks <= self._active_fraction * weights.sum()).sum()))
        threshold = true[order[count - 1]]
        active = (true >= threshold) & (true > 0)
        if active.any():
            base = float(weights[active].sum() / weights.sum())
            found |= {"auprc": average_precision(active, predicted, weights), "base": base}
        return found

    def effect_metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        """Return the metrics of a description on the measured change of the sampled tokens' logits.

        Returns:
            As :meth:`metrics`, with the change in place of the activation. The active tokens of ``auprc`` are those
            whose logits rise most.

        Raises:
            Unanswered: if no effect was measured at a value above zero, or for no sampled token.
        """
        sampled = strongest_effect(case).sampled
        if not sampled:
            raise Unanswered(Status.FAILED, "no tokens were sampled (steering.effects.sampled_tokens)")
        text = TokenText([[item.token for item in sampled]])
        predicted = self._predictor.predict(case, description, text, Side.OUTPUT)[text.codes]
        return self._compared(predicted, np.array([item.z for item in sampled]), np.ones(len(sampled))) or {}


class TokenSimulation(Scorer):
    """Correlates activations predicted from the description's tokens with the true ones, at every token.

    The value is ``pearson``; the other metrics of :meth:`TokenMatch.metrics` are recorded as well. The options are
    documented in ``conf/judges/token_simulation.yaml``.
    """

    @validated
    def __init__(self, encoder: SentenceEncoder, sharpness: Positive = 4.0, active_fraction: Fraction = 0.05) -> None:
        self.encoder, self._match = encoder, TokenMatch(TokenPredictor(encoder, sharpness), active_fraction)

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Predict and compare."""
        metrics = self._match.metrics(case, description)
        return Grade(metrics.pop("pearson"), metrics)


class TokenPairwise(Comparator):
    """Prefers the description whose tokens predict the activations at every token better.

    The options are documented in ``conf/judges/token_pairwise.yaml``.
    """

    symmetric = True
    _evidence = "tokens of the report split"
    _inactive = "the neuron is never active on the report split"

    @validated
    def __init__(
        self,
        encoder: SentenceEncoder,
        metric: Metric = "pearson",
        sharpness: Positive = 4.0,
        active_fraction: Fraction = 0.05,
        tie_margin: NonNegative = 0.01,
    ) -> None:
        self.encoder, self._match = encoder, TokenMatch(TokenPredictor(encoder, sharpness), active_fraction)
        self._metric, self._margin = metric, tie_margin

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare the two metrics; a difference below the margin is a tie.

        Raises:
            Unanswered: as the metrics do, or if the metric is AUPRC and no token is active.
        """
        one, two = (self._metrics(case, description).get(self._metric) for description in (first, second))
        if one is None or two is None:
            raise Unanswered(Status.FAILED, self._inactive)
        name = {"pearson": "r", "auprc": "AUPRC"}[self._metric]
        reason = f"{name} {one:.3f} against {two:.3f} over the {self._evidence}"
        return Judgement(preferred(one, two, self._margin), reason)

    def _metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        return self._match.metrics(case, description)


class TokenOutput(TokenPairwise):
    """Prefers the description whose tokens predict the measured change of the tokens' logits better.

    The change is that of clamping the neuron on text of the report split, over a uniform sample of the vocabulary. A
    neuron has one output vector, and in the last layers clamping changes the logits by nearly the same amounts on any
    text: a describer that sees the effects on other text, or the projection of the output weights, has nearly seen what
    this judge measures. Its win rate is an upper bound.

    The options are documented in ``conf/judges/token_output.yaml``.
    """

    side = Side.OUTPUT
    needs_effects = True
    _evidence = "sampled tokens of the vocabulary"
    _inactive = "the neuron raises the logit of no sampled token"

    def _metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        return self._match.effect_metrics(case, description)
