"""Evidence that describers show: groups under headings, counted, and cut to the budget that all describers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from harness.methods import DescriberCase
from harness.records import EvidenceSize, Exemplar, ScoredToken


@dataclass(frozen=True)
class Excerpt:
    """A window of text shown with its active tokens marked.

    Attributes:
        window: the window.
        strength: its highest activation, from 0 to 10 relative to the windows shown with it.
        threshold: tokens are marked if their activation is at least this.
    """

    window: Exemplar
    strength: int
    threshold: float


@dataclass(frozen=True)
class Group:
    """Evidence of one kind.

    Attributes:
        heading: what the evidence is, written for the explainer.
        tokens: tokens of the vocabulary, strongest first.
        records: windows of text, each token with its activation as an integer 0-10.
        excerpts: windows of text with marked tokens.
    """

    heading: str
    tokens: tuple[str, ...] = ()
    records: tuple[tuple[tuple[str, int], ...], ...] = ()
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def size(self) -> EvidenceSize:
        """The number of windows and tokens."""
        windows = [*self.records, *(excerpt.window.tokens for excerpt in self.excerpts)]
        return EvidenceSize(len(windows), len(self.tokens) + sum(map(len, windows)))


@runtime_checkable
class ShowsEvidence(Protocol):
    """A describer that can return its evidence without a description, for an ensemble that shows several kinds."""

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return what the describer would show to an explainer, within the case's budget.

        Raises:
            Unanswered: if there is no evidence about this neuron.
        """


def size_of(windows: Iterable[Exemplar] = (), tokens: Iterable[str] = ()) -> EvidenceSize:
    """Count windows, and the tokens of the windows and of the vocabulary together."""
    lengths = [len(window.tokens) for window in windows]
    return EvidenceSize(len(lengths), sum(lengths) + len(list(tokens)))


def total(sizes: Iterable[EvidenceSize]) -> EvidenceSize:
    """Return the sum of several sizes."""
    listed = list(sizes)
    return EvidenceSize(sum(size.windows for size in listed), sum(size.tokens for size in listed))


def shares(budget: int | None, among: int) -> list[int | None]:
    """Divide a budget into equal whole parts that add up to it; the first parts take the remainder."""
    if budget is None:
        return [None] * among
    return [budget // among + (index < budget % among) for index in range(among)]


def within(windows: Iterable[Exemplar], budget: int | None) -> list[Exemplar]:
    """Return windows in order until the budget is used up; the last one is cropped around its peak."""
    kept: list[Exemplar] = []
    left = budget
    for window in windows:
        if left is not None:
            window = window.crop(left, shift=True)
            left -= len(window.tokens)
        if window.tokens:
            kept.append(window)
    return kept


def texts_of(tokens: Iterable[ScoredToken]) -> list[str]:
    """Return the tokens without their scores."""
    return [token.token for token in tokens]
