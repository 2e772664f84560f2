"""Held-out evidence: which windows, tokens and steered texts judges show. It does not depend on the descriptions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from harness.llm.client import Unanswered
from harness.llm.prompts import spans
from harness.methods import JudgeCase
from harness.records import Effect, Exemplar, ScoredToken, Source, Split, Status, SteeredText, VectorKind
from harness.seeds import derive_rng
from harness.spread import lowest_quarter, spread

T = TypeVar("T")
Tails = tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]


def excerpt(exemplar: Exemplar, context: int, centre: int | None = None) -> str:
    """Return ``2 * context + 1`` tokens of a window around a position, by default its peak, as text.

    At an end of the window they are shifted inwards. Silent windows often have their peak in the first tokens, where
    the model has read no context, so a shorter excerpt would reveal them.
    """
    shown = exemplar.around(2 * context + 1, shift=True, centre=centre)
    return "".join(exemplar.tokens[shown.start : shown.stop]).strip()


def marked(exemplar: Exemplar, shown: range, positions: Collection[int]) -> str:
    """Return part of a window's text, safe for a prompt, with the tokens at some positions between « and »."""
    return spans((exemplar.tokens[position], position in positions) for position in shown).strip()


def shuffled(items: Sequence[T], case: JudgeCase, *purpose: object) -> list[T]:
    """Return the items in an order that depends only on the run's seed, the neuron and the purpose."""
    order = derive_rng(case.seed, *purpose, case.neuron).permutation(len(items))
    return [items[index] for index in order]


def top_and_random(case: JudgeCase, split: Split, count: int | None = None) -> dict[Source, list[Exemplar]]:
    """Return at most ``count`` windows of each source; a random window that is also a top window counts as top."""
    top = list(case.windows(split, Source.TOP)[:count])
    seen = {item.window for item in top}
    return {
        Source.TOP: top,
        Source.RANDOM: [item for item in case.windows(split, Source.RANDOM) if item.window not in seen][:count],
    }


def by_activation(case: JudgeCase, *sources: Source) -> list[Exemplar]:
    """Return the report split's windows of some sources, without repetitions, highest activation first."""
    found = {item.window: item for source in reversed(sources) for item in case.windows(Split.REPORT, source)}
    return sorted(found.values(), key=lambda item: (-item.activation, item.window))


def quiet(case: JudgeCase) -> float:
    """Return the activation below or at which the lowest quarter of the report split's random windows have their peak.

    Such windows count as silent, and never as activating: on a dense neuron's, no peak may be near zero.
    """
    return lowest_quarter([item.activation for item in case.windows(Split.REPORT, Source.RANDOM)])


def active_and_silent(
    case: JudgeCase, count: int, silent_fraction: float, silent_count: int | None
) -> tuple[list[Exemplar], list[Exemplar]]:
    """Return the ``count`` most active top windows of the report split, and at most ``silent_count`` silent ones.

    Raises:
        Unanswered: if the neuron has no activating or no silent window.
    """
    active = _active(case, case.windows(Split.REPORT, Source.TOP)[:count])
    return active, silent(case, active, silent_fraction, silent_count)


def _active(case: JudgeCase, windows: Sequence[Exemplar]) -> list[Exemplar]:
    """Return the windows whose peaks are above zero and above :func:`quiet`.

    Raises:
        Unanswered: if there are none.
    """
    positive = [item for item in windows if item.activation > 0]
    if not positive:
        raise Unanswered(Status.FAILED, "the neuron is never active on the report split")
    found = [item for item in positive if item.activation > quiet(case)]
    if not found:
        raise Unanswered(Status.FAILED, "no window of the report split is more active than the random ones")
    return found


def silent(case: JudgeCase, active: Sequence[Exemplar], silent_fraction: float, count: int | None) -> list[Exemplar]:
    """Return at most ``count`` random windows of the report split that do not activate the neuron, in corpus order.

    Their peaks are below ``silent_fraction`` of the peak of the last window in ``active`` (highest activation first),
    or in the lowest quarter of the random windows (:func:`quiet`).

    Raises:
        Unanswered: if the split has no random windows.
    """
    least, quarter = active[-1].activation, quiet(case)
    random = [item for item in case.windows(Split.REPORT, Source.RANDOM) if item.activation < least]
    found = [item for item in random if item.activation < silent_fraction * least or item.activation <= quarter]
    if not found:
        raise Unanswered(Status.FAILED, "the report split has no random window")
    found = found[:count]
    return found


def activating(case: JudgeCase, count: int, active_share: float) -> list[Exemplar]:
    """Return ``count`` activating windows, spread evenly over the activations of the top and quantile windows.

    Their peaks are at least ``active_share`` of the highest one, because a neuron of a dense layer is rarely at zero.
    The highest activation comes first.

    Raises:
        Unanswered: if there is none.
    """
    found = _active(case, by_activation(case, Source.TOP, Source.QUANTILE))
    least = active_share * found[0].activation
    return spread([item for item in found if item.activation >= least], count)


def output_tokens(case: JudgeCase, count: int, *, measured: bool, final_norm: bool) -> Tails:
    """Return the ``count`` tokens that the neuron promotes most, and those that it suppresses most.

    Args:
        case: the neuron.
        count: tokens of each kind.
        measured: whether to use the measured effect of clamping the neuron (at the highest measured value, over text of
            the report split) instead of the vocabulary projection of its output weights.
        final_norm: whether to apply the final norm to the weights first, if the model has one.

    Raises:
        Unanswered: if no effect was measured at a value above zero.
    """
    if not measured:
        return case.subject.vocabulary_tokens(case.neuron, VectorKind.OUT, count, final_norm=final_norm)
    effect = strongest_effect(case)
    return effect.promoted[:count], effect.suppressed[:count]


def strongest_effect(case: JudgeCase) -> Effect:
    """Return the effect of clamping the neuron to the highest measured value, over text of the report split.

    Raises:
        Unanswered: if no effect was measured at a value above zero.
    """
    effects = [effect for effect in case.effects if effect.value > 0 and effect.split is Split.REPORT]
    if not effects:
        raise Unanswered(Status.FAILED, "no effect of the neuron was measured at a value above zero (steering.effects)")
    return max(effects, key=lambda effect: effect.value)


def steered_pairs(case: JudgeCase, count: int) -> list[tuple[SteeredText, SteeredText]]:
    """Return at most ``count`` pairs: a text with the neuron held at the highest value, and the one without steering.

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
