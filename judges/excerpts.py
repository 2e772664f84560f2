"""Which held-out excerpts scorers show, and how: the same for every description of a neuron, whatever it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.llm.client import Unanswered
from harness.llm.prompts import spans
from harness.methods import JudgeCase
from harness.records import Exemplar, Source, Split, Status
from harness.seeds import derive_rng
from harness.spread import spread
from judges.evidence import silent

T = TypeVar("T")


@dataclass(frozen=True)
class Excerpts:
    """Which windows of the report split are shown as activating and which as silent.

    A neuron of a dense layer is hardly ever at zero, so both are relative to its highest activation on the split.

    Attributes:
        active: activating windows, spread evenly over the activations of the top and quantile windows.
        silent: random windows, at most so many; none for all there are.
        context: tokens shown on either side of a window's peak.
        active_share: a window activates the neuron if its peak reaches this share of the highest one.
        silent_fraction: a window is silent if its peak stays below this share of the lowest activating one shown.
    """

    active: int
    silent: int | None
    context: int
    active_share: float
    silent_fraction: float

    def draw(self, case: JudgeCase) -> tuple[list[Exemplar], list[Exemplar]]:
        """Return the activating windows, highest first, and the silent ones, in corpus order.

        Raises:
            Unanswered: if there is none of either kind.
        """
        active = self.activating(case)
        return active, silent(case, active, self.silent_fraction, self.silent)

    def activating(self, case: JudgeCase) -> list[Exemplar]:
        """Return the activating windows, highest first.

        Raises:
            Unanswered: if there is none.
        """
        found = [item for item in by_activation(case, Source.TOP, Source.QUANTILE) if item.activation > 0]
        if not found:
            raise Unanswered(Status.FAILED, "the neuron is never active on the report split")
        least = self.active_share * found[0].activation
        return spread([item for item in found if item.activation >= least], self.active)


def by_activation(case: JudgeCase, *sources: Source) -> list[Exemplar]:
    """Return the report windows of some sources, each once, highest activation first."""
    found = {item.window: item for source in reversed(sources) for item in case.windows(Split.REPORT, source)}
    return sorted(found.values(), key=lambda item: (-item.activation, item.window))


def shuffled(items: Sequence[T], case: JudgeCase, *purpose: object) -> list[T]:
    """Return the items in an order that depends on the run's seed, the neuron and the purpose alone."""
    order = derive_rng(case.seed, *purpose, case.neuron).permutation(len(items))
    return [items[place] for place in order]


def marked(exemplar: Exemplar, shown: range, places: Collection[int]) -> str:
    """Return a part of a window's text, fit for a prompt, with the tokens at some places between « and »."""
    return spans((exemplar.tokens[place], place in places) for place in shown).strip()
