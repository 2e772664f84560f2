"""How describers choose and show windows of text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from describers.evidence import Excerpt, within
from harness.llm.client import Unanswered
from harness.methods import DescriberCase
from harness.records import Exemplar, Source, Split, Status
from harness.spread import spread
from harness.text import is_word, word_boundaries

#: Which activating windows are shown: the highest activations, spread from the highest to the lowest, or some of each.
Sampling = Literal["top", "quantile", "mixed"]

#: UAX #29 sees no boundary at these between letters, as in ``os.path`` and ``max_len``.
_JOINING = frozenset("_.:")


def activating_windows(
    case: DescriberCase, sampling: Sampling, count: int, top_share: float, budget: int | None
) -> list[Exemplar]:
    """Return windows of the explain split that activate the neuron, highest activation first.

    Args:
        case: the neuron.
        sampling: which windows.
        count: maximum number of windows.
        top_share: share of ``count`` that are top windows if ``sampling`` is ``mixed``.
        budget: maximum number of tokens over all windows; None for no limit.

    Raises:
        Unanswered: if no window activates the neuron, or the budget has no room for one.
    """
    top, quantile = (
        sorted(
            (window for window in case.windows(Split.EXPLAIN, source) if window.activation > 0),
            key=lambda window: -window.activation,
        )
        for source in (Source.TOP, Source.QUANTILE)
    )
    if sampling != "top" and top and not quantile:
        raise Unanswered(Status.FAILED, "the evidence has no quantile windows of the explain split")
    top, quantile = ([] if sampling == "quantile" else top), ([] if sampling == "top" else quantile)
    if not top and not quantile:
        raise Unanswered(Status.FAILED, "the neuron is never active on the explain split")
    # A budget reduces the number of windows before they are chosen: cutting a mixed choice would leave top ones only.
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
    if sampling == "top":
        return list(top[:count])
    chosen = list(top[: math.ceil(top_share * count)]) if sampling == "mixed" else []
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
    """Return windows in which tokens are marked that reach ``mark_share`` of their own window's peak."""
    highest = max(window.activation for window in shown)
    return [Excerpt(window, level(window.activation, highest), mark_share * window.activation) for window in shown]


def active_words(shown: Sequence[Exemplar]) -> list[str]:
    """Return the words with positive activation, by highest activation, then by the sum of their activations."""
    highest: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    for exemplar in shown:
        for word, activation in words(exemplar):
            highest[word] = max(highest[word], activation)
            sums[word] += max(activation, 0.0)
    active = (word for word in sums if highest[word] > 0 and is_word(word))
    return sorted(active, key=lambda word: (-highest[word], -sums[word], word))


def words(exemplar: Exemplar) -> list[tuple[str, float]]:
    """Join the tokens of each word, and return the words with their highest activations.

    A word of several tokens ends at a word boundary (UAX #29), and at the marks that join names in code. In scripts
    without spaces, there is a boundary after every character, so each token stays a word of its own.
    """
    bounds = word_boundaries("".join(exemplar.tokens))
    found: list[tuple[str, float]] = []
    position = 0
    for token, activation in zip(exemplar.tokens, exemplar.activations, strict=True):
        if not found or position in bounds or {found[-1][0][-1:], token[:1]} & _JOINING:
            found.append((token, activation))
        else:
            word, highest = found[-1]
            found[-1] = (word + token, max(highest, activation))
        position += len(token)
    return [(word.strip(), activation) for word, activation in found]
