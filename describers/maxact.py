"""Descriptions from the text that activates a neuron.

Sources: Bills et al. 2023, *Language models can explain neurons in language models* (tokens with activations as
integers 0-10: relu, floor of 10 a / max over the shown records); Paulo et al. 2024, arXiv:2410.13928 (marked spans;
exemplars from the quantiles of the activation in addition to the highest ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from describers.answers import ExplainerDescriber, activating, extract
from describers.evidence import Group, size_of
from describers.windows import Sampling, activating_windows, active_words, discretised, marked
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft, Mode
from harness.records import Exemplar
from harness.validation import Count, Fraction, FractionOrZero, validated

#: What the windows are, written for the explainer.
MEANING: dict[Sampling, str] = {
    "top": "those on which it was most active",
    "quantile": "some on which it was active, from the most to the least active",
    "mixed": "those on which it was most active, and some on which it was active more or less",
}


class MaxAct(ExplainerDescriber):
    """Describes a neuron from text of the explain split that activates it."""

    needs_exemplars = True
    prompt = Prompt("describers", "prompts/maxact.j2")
    spans_prompt = Prompt("describers", "prompts/maxact_spans.j2")

    @validated
    def __init__(
        self,
        exemplars: Count = 10,
        sampling: Sampling = "top",
        top_share: FractionOrZero = 0.5,
        layout: Literal["tab", "spans"] = "tab",
        mark_share: Fraction = 0.3,
        target_words: Count = 30,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        self._exemplars, self._top_share, self._mark_share = exemplars, top_share, mark_share
        self._sampling, self._layout = sampling, layout

    async def describe(self, case: DescriberCase) -> Draft:
        """Show the windows to the explainer, or list the words with the highest activations."""
        shown = self._windows(case)
        detail = f"from {len(shown)} windows of the explain split"
        if case.llm is None:
            tokens = extract(activating(active_words(shown)), self.target_words)
            return Draft(tokens.text, detail, evidence=size_of(shown), tokens=tokens)
        (group,) = self._groups(shown)
        text = await self.explain(
            case.llm,
            self.prompt if self._layout == "tab" else self.spans_prompt,
            chosen=MEANING[self._sampling],
            records=group.records,
            excerpts=group.excerpts,
        )
        return Draft(text, detail, evidence=group.size)

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return the windows."""
        return self._groups(self._windows(case))

    def _windows(self, case: DescriberCase) -> list[Exemplar]:
        return activating_windows(case, self._sampling, self._exemplars, self._top_share, case.budget)

    def _groups(self, shown: Sequence[Exemplar]) -> list[Group]:
        what = f"The neuron was run over texts. These excerpts are {MEANING[self._sampling]}."
        if self._layout == "tab":
            highest = max(window.activation for window in shown)
            records = tuple(tuple(discretised(window, highest)) for window in shown)
            lines = (
                "Each line is a token, a tab, and the neuron's activation at that token from 0 (silent) to 10 (as "
                "active as it gets)."
            )
            return [Group(f"{what} {lines}", records=records)]
        lines = (
            "The tokens on which it was active stand between « and »; the peak of an excerpt is how active it was at "
            "its most active token, from 0 (hardly) to 10 (as active as it gets)."
        )
        return [Group(f"{what} {lines}", excerpts=tuple(marked(shown, self._mark_share)))]
