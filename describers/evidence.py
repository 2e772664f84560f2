"""Evidence as it is shown: in groups under headings, counted, and cut to the budget that all describers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from harness.methods import DescriberCase
from harness.records import EvidenceSize, Exemplar


@dataclass(frozen=True)
class Excerpt:
    """A window of text shown with its active tokens marked.

    Attributes:
        window: the window.
        strength: its highest activation on the scale 0-10 of the windows that it is shown with.
        threshold: activation from which on a token is marked.
    """

    window: Exemplar
    strength: int
    threshold: float


@dataclass(frozen=True)
class Group:
    """Evidence of one kind.

    Attributes:
        heading: what it is, in words for the explainer.
        tokens: tokens of the vocabulary, strongest first.
        records: windows of text, each token with its activation as an integer 0-10.
        excerpts: windows of text with marks.
    """

    heading: str
    tokens: tuple[str, ...] = ()
    records: tuple[tuple[tuple[str, int], ...], ...] = ()
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def size(self) -> EvidenceSize:
        """How much it is."""
        windows = [*self.records, *(excerpt.window.tokens for excerpt in self.excerpts)]
        return EvidenceSize(len(windows), len(self.tokens) + sum(map(len, windows)))


@runtime_checkable
class ShowsEvidence(Protocol):
    """A describer that can hand over its evidence undescribed, for an ensemble that shows all of it in one prompt."""

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return what it would show to an explainer, within the case's budget.

        Raises:
            Unanswered: if it has nothing to show of this neuron.
        """


def size_of(windows: Iterable[Exemplar] = (), tokens: Iterable[str] = ()) -> EvidenceSize:
    """Count evidence: windows, and tokens of text and of the vocabulary together."""
    lengths = [len(window.tokens) for window in windows]
    return EvidenceSize(len(lengths), sum(lengths) + len(list(tokens)))


def total(sizes: Iterable[EvidenceSize]) -> EvidenceSize:
    """Add up evidence."""
    listed = list(sizes)
    return EvidenceSize(sum(size.windows for size in listed), sum(size.tokens for size in listed))


def shares(budget: int | None, among: int) -> list[int | None]:
    """Divide a budget into equal whole parts that add up to it; the first ones take what is left over."""
    if budget is None:
        return [None] * among
    return [budget // among + (place < budget % among) for place in range(among)]


def within(windows: Iterable[Exemplar], budget: int | None) -> list[Exemplar]:
    """Return windows in order until the budget is spent; the last one is cut to what is left, around its peak."""
    kept: list[Exemplar] = []
    left = budget
    for window in windows:
        if left is not None:
            window = window.crop(left, shift=True)
            left -= len(window.tokens)
        if window.tokens:
            kept.append(window)
    return kept
