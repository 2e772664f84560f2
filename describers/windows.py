"""Windows of text as several describers choose and show them."""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Sequence

from describers.evidence import Excerpt, within
from harness.llm.client import Unanswered
from harness.methods import DescriberCase
from harness.records import Exemplar, Source, Split, Status
from harness.spread import spread


class Sampling(enum.StrEnum):
    """Which windows that activate are shown."""

    TOP = "top"  # the highest activations
    QUANTILE = "quantile"  # from the highest to the lowest activations
    MIXED = "mixed"  # some of each


def activating(
    case: DescriberCase, sampling: Sampling, count: int, top_share: float, budget: int | None
) -> list[Exemplar]:
    """Return windows of the explain split that activate the neuron, highest activation first.

    Args:
        case: the neuron.
        sampling: which ones.
        count: at most so many.
        top_share: share of ``count`` that are top windows when ``mixed``.
        budget: most tokens in all; none for no limit.

    Raises:
        Unanswered: if the neuron has none, or the budget leaves no room for any.
    """
    top, quantile = (
        sorted(
            (window for window in case.windows(Split.EXPLAIN, source) if window.activation > 0),
            key=lambda window: -window.activation,
        )
        for source in (Source.TOP, Source.QUANTILE)
    )
    if sampling is not Sampling.TOP and top and not quantile:
        raise Unanswered(Status.FAILED, "the evidence has no quantile windows of the explain split")
    if sampling is Sampling.QUANTILE:
        top = []
    if not top and not quantile:
        raise Unanswered(Status.FAILED, "the neuron is never active on the explain split")
    # What fills a budget is fewer windows, chosen as any number of them are: not the first of many, all top ones.
    for number in range(1 if budget is not None else count, count + 1):
        chosen = _chosen(top, quantile, sampling, number, top_share)
        if budget is not None and sum(len(window.tokens) for window in chosen) >= budget:
            break
    shown = within(sorted(chosen, key=lambda window: -window.activation), budget)
    if not shown:
        raise Unanswered(Status.FAILED, f"a budget of {budget} tokens leaves no room for a window")
    return shown


def _chosen(
    top: Sequence[Exemplar], quantile: Sequence[Exemplar], sampling: Sampling, count: int, top_share: float
) -> list[Exemplar]:
    of_top = {Sampling.TOP: count, Sampling.QUANTILE: 0, Sampling.MIXED: math.ceil(top_share * count)}[sampling]
    chosen = list(top[:of_top])
    if sampling is Sampling.TOP:
        return chosen
    seen = {window.window for window in chosen}
    return chosen + spread([window for window in quantile if window.window not in seen], count - len(chosen))


def level(activation: float, highest: float) -> int:
    """Return an activation as an integer 0-10: floor of 10 relu(a) / ``highest`` (Bills et al. 2023)."""
    return min(10, math.floor(10 * max(activation, 0.0) / highest))


def discretised(exemplar: Exemplar, highest: float) -> list[tuple[str, int]]:
    """Return each token with its activation as an integer 0-10."""
    levels = (level(activation, highest) for activation in exemplar.activations)
    return list(zip(exemplar.tokens, levels, strict=True))


def marked(shown: Sequence[Exemplar], mark_share: float) -> list[Excerpt]:
    """Return windows with the tokens marked that reach ``mark_share`` of their own window's peak."""
    highest = max(window.activation for window in shown)
    return [Excerpt(window, level(window.activation, highest), mark_share * window.activation) for window in shown]


def active_words(shown: Sequence[Exemplar]) -> list[str]:
    """Return the words that activate, by their highest activation, then by how much they activate in all."""
    highest: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    for exemplar in shown:
        for word, activation in words(exemplar):
            highest[word] = max(highest[word], activation)
            sums[word] += max(activation, 0.0)
    spoken = (word for word in sums if highest[word] > 0 and any(map(str.isalnum, word)))
    return sorted(spoken, key=lambda word: (-highest[word], -sums[word], word))


def words(exemplar: Exemplar) -> list[tuple[str, float]]:
    """Join tokens into words (what is neither letter nor digit ends one), each with its highest activation."""
    found: list[tuple[str, float]] = []
    for token, activation in zip(exemplar.tokens, exemplar.activations, strict=True):
        if found and found[-1][0][-1:].isalnum() and token[:1].isalnum():
            word, highest = found[-1]
            found[-1] = (word + token, max(highest, activation))
        else:
            found.append((token.strip(), activation))
    return found
