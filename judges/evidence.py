"""Held-out evidence as judges use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.llm.client import Unanswered
from harness.methods import JudgeCase
from harness.records import Exemplar, ScoredToken, Source, Split, Status, SteeredText, VectorKind
from harness.spread import spread

Tails = tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]


def excerpt(exemplar: Exemplar, context: int) -> str:
    """Return the text around a window's peak: ``context`` tokens on either side, the same for every window."""
    return "".join(exemplar.crop(2 * context + 1, shift=False).tokens).strip()


def top_and_random(case: JudgeCase, split: Split, count: int | None = None) -> dict[Source, list[Exemplar]]:
    """Return at most ``count`` windows of each source, no window twice: a random one may be among the top ones."""
    top = list(case.windows(split, Source.TOP)[:count])
    seen = {item.window for item in top}
    return {
        Source.TOP: top,
        Source.RANDOM: [item for item in case.windows(split, Source.RANDOM) if item.window not in seen][:count],
    }


def active_and_silent(case: JudgeCase, count: int, silent_fraction: float) -> tuple[list[Exemplar], list[Exemplar]]:
    """Return held-out windows that activate the neuron and windows that do not.

    The activating ones are the ``count`` highest of the report split. The others are the random windows of that split
    whose peak stays below ``silent_fraction`` of the lowest activating one's, at most ``count``, in corpus order.

    Raises:
        Unanswered: if the neuron has no activating or no silent window.
    """
    active = [item for item in case.windows(Split.REPORT, Source.TOP)[:count] if item.activation > 0]
    if not active:
        raise Unanswered(Status.FAILED, "the neuron is never active on the report split")
    return active, silent(case, active, silent_fraction, count)


def silent(case: JudgeCase, active: Sequence[Exemplar], silent_fraction: float, count: int | None) -> list[Exemplar]:
    """Return the report split's random windows that do not activate the neuron, at most ``count``, in corpus order.

    Their peaks stay below ``silent_fraction`` of that of the last of the activating ones, which stand highest first.

    Raises:
        Unanswered: if there is none.
    """
    limit = silent_fraction * active[-1].activation
    found = [item for item in case.windows(Split.REPORT, Source.RANDOM) if item.activation < limit][:count]
    if not found:
        raise Unanswered(Status.FAILED, "the neuron is active on every random window of the report split")
    return found


def over_the_range(case: JudgeCase, count: int, *, without: Sequence[Exemplar]) -> list[Exemplar]:
    """Return held-out windows of weaker activation, strongest first: ``count`` spread evenly over those drawn.

    They are the report split's windows that were drawn by quantile of activation, ``without`` those given; none if the
    run drew none.
    """
    seen = {item.window for item in without}
    drawn = {item.window: item for item in case.windows(Split.REPORT, Source.QUANTILE)}
    rest = [item for window, item in drawn.items() if window not in seen and item.activation > 0]
    rest.sort(key=lambda item: (-item.activation, item.window))
    return spread(rest, count)


def written(case: JudgeCase, count: int, *, measured: bool, final_norm: bool) -> Tails:
    """Return the tokens that the neuron promotes most, and those that it suppresses most, ``count`` of each.

    Args:
        case: the neuron.
        count: tokens of each kind.
        measured: whether to take what clamping the neuron does to the next token over held-out text (at the highest
            value that was measured), or to project its output weights on the vocabulary.
        final_norm: whether to apply the final norm to the weights first, where the model has one.

    Raises:
        Unanswered: if nothing was measured at a value above zero.
    """
    if not measured:
        return case.subject.vocabulary_tokens(case.neuron, VectorKind.OUT, count, final_norm=final_norm)
    effects = [effect for effect in case.effects if effect.value > 0 and effect.split is Split.REPORT]
    if not effects:
        raise Unanswered(Status.FAILED, "no effect of the neuron was measured at a value above zero (steering.effects)")
    strongest = max(effects, key=lambda effect: effect.value)
    return strongest.promoted[:count], strongest.suppressed[:count]


def steered_pairs(case: JudgeCase, count: int) -> list[tuple[SteeredText, SteeredText]]:
    """Return texts with the neuron held at the highest value, each beside the one without, at most ``count`` pairs.

    Raises:
        Unanswered: if there is none.
    """
    texts = case.steered.get(case.neuron, ())
    plain = {(text.prompt, text.sample): text for text in texts if text.value is None}
    held = [text for text in texts if text.value is not None and text.value > 0]
    most = max((text.value for text in held if text.value is not None), default=None)
    pairs = [
        (text, plain[text.prompt, text.sample])
        for text in held
        if text.value == most and (text.prompt, text.sample) in plain
    ]
    if not pairs:
        raise Unanswered(Status.FAILED, "no text was generated with the neuron active (steering.texts)")
    return pairs[:count]


def varies(values: NDArray[np.floating]) -> bool:
    """Tell whether there are values, and not all of them are the same."""
    return bool(len(values) and np.ptp(values) >= 1e-9)


def pearson(predicted: NDArray[np.floating], true: NDArray[np.floating]) -> float | None:
    """Return Pearson's correlation: 0 if the prediction does not vary, none if the truth does not.

    A constant prediction tells nothing, which is what 0 says. If it had no figure, the descriptions that lead to it
    would drop out of the means, and only the bad ones do. A constant truth is the same for every description.
    """
    if not varies(true):
        return None
    return float(np.corrcoef(predicted, true)[0, 1]) if varies(predicted) else 0.0
