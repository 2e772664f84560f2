"""Descriptions from the text that activates a neuron.

Sources: Bills et al. 2023, *Language models can explain neurons in language models* (tokens with activations as
integers 0-10: relu, floor of 10 a / max over the shown records); Paulo et al. 2024, arXiv:2410.13928 (marked spans;
exemplars from the quantiles of the activation beside the highest ones).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from describers.answers import ExplainerDescriber, explanation, extract
from describers.evidence import Group, size_of
from describers.windows import Sampling, activating, active_words, discretised, marked
from harness.checks import require, require_count
from harness.llm.asking import ask
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft
from harness.records import Exemplar


class Layout(enum.StrEnum):
    """How windows are shown."""

    TAB = "tab"  # a line for each token, with its activation 0-10
    SPANS = "spans"  # running text, the active tokens between « and »


#: What the windows are, in words for the explainer.
MEANING = {
    Sampling.TOP: "those on which it was most active",
    Sampling.QUANTILE: "some on which it was active, from the most to the least active",
    Sampling.MIXED: "those on which it was most active, and some on which it was active more or less",
}


class MaxAct(ExplainerDescriber):
    """Describes a neuron from text of the explain split that activates it.

    Args:
        exemplars: windows shown, highest activation first.
        sampling: ``top`` (the highest activations), ``quantile`` (from the highest to the lowest) or ``mixed``.
        top_share: share of the windows that are top ones when ``mixed``; the others are quantile ones.
        layout: ``tab`` (a line for each token, with its activation 0-10) or ``spans`` (active tokens marked in text).
        mark_share: in ``spans``, a token is marked from this share of its window's peak on.
        target_words: length asked of the description; in the extractive form, the number of tokens.
        mode: ``auto``, ``llm`` or ``extractive``.
    """

    needs_exemplars = True
    prompt = Prompt("describers", "prompts/maxact.j2")
    spans_prompt = Prompt("describers", "prompts/maxact_spans.j2")

    def __init__(
        self,
        exemplars: int = 10,
        sampling: str = "top",
        top_share: float = 0.5,
        layout: str = "tab",
        mark_share: float = 0.3,
        target_words: int = 30,
        mode: str = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        require_count("exemplars", exemplars, 1)
        require(0 <= top_share <= 1, "top_share", top_share, "from 0 to 1")
        require(0 < mark_share <= 1, "mark_share", mark_share, "above 0 and at most 1")
        self._exemplars, self._top_share, self._mark_share = exemplars, top_share, mark_share
        self._sampling, self._layout = Sampling(sampling), Layout(layout)

    async def describe(self, case: DescriberCase) -> Draft:
        """Show the windows and ask, or name the words that activate most."""
        shown = self._windows(case)
        detail = f"from {len(shown)} windows of the explain split"
        if case.llm is None:
            return Draft(extract(active_words(shown), self.target_words), detail, evidence=size_of(shown))
        (group,) = self._groups(shown)
        prompt = self.prompt if self._layout is Layout.TAB else self.spans_prompt
        rendered = prompt.render(
            chosen=MEANING[self._sampling], records=group.records, excerpts=group.excerpts, words=self.target_words
        )
        answer = await ask(case.llm, rendered, explanation(self.target_words))
        return Draft(answer.description, detail, evidence=group.size)

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return the windows."""
        return self._groups(self._windows(case))

    def _windows(self, case: DescriberCase) -> list[Exemplar]:
        return activating(case, self._sampling, self._exemplars, self._top_share, case.budget)

    def _groups(self, shown: Sequence[Exemplar]) -> list[Group]:
        what = f"The neuron was run over texts. These excerpts are {MEANING[self._sampling]}."
        if self._layout is Layout.TAB:
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
