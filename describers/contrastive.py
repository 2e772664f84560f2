"""Descriptions from text that activates a neuron, contrasted with similar text that does not.

Source: Paulo et al. 2024, arXiv:2410.13928 (contrastive explanations; hard negatives by embedding similarity). The
neuron does not respond to what both kinds of text have in common, so the explainer is shown what to leave out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from describers.answers import ExplainerDescriber, activating, extract
from describers.evidence import Excerpt, Group, shares, size_of, within
from describers.windows import activating_windows, active_words, marked, words
from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft, Mode
from harness.records import Exemplar, Source, Split, Status
from harness.spread import lowest_quarter
from harness.validation import Count, Fraction, validated

#: What the windows of each kind are, written for the explainer.
ACTIVE = (
    "The neuron was run over texts. On these excerpts it was active, most so on the tokens between « and »; the peak "
    "of an excerpt is how active it was at its most active token, from 0 (hardly) to 10 (as active as it gets)."
)
SILENT = "On these excerpts it was hardly or not at all active, although they read much like those on which it was."


class Contrastive(ExplainerDescriber):
    """Describes a neuron from text of the explain split that activates it, and similar text that does not.

    In extractive mode, the description lists the activating words that do not occur in the similar text.
    """

    needs_exemplars = True
    prompt = Prompt("describers", "prompts/contrastive.j2")

    @validated
    def __init__(
        self,
        encoder: SentenceEncoder,
        active: Count = 8,
        silent: Count = 8,
        silent_fraction: Fraction = 0.5,
        context: Count = 16,
        mark_share: Fraction = 0.3,
        target_words: Count = 30,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        self.encoder = encoder
        self._active, self._silent, self._silent_fraction = active, silent, silent_fraction
        self._context, self._mark_share = context, mark_share

    async def describe(self, case: DescriberCase) -> Draft:
        """Show both kinds of text to the explainer, or list the words that only the activating text has."""
        active, silent = self._sides(case)
        detail = f"from {len(active)} activating and {len(silent)} look-alike silent windows of the explain split"
        size = size_of([*active, *silent])
        if case.llm is None:
            shared = {word.lower() for window in silent for word, _ in words(window)}
            activating_words = active_words(active)
            alone = [word for word in activating_words if word.lower() not in shared]
            tokens = extract(activating(alone or activating_words), self.target_words)
            return Draft(tokens.text, detail, evidence=size, tokens=tokens)
        text = await self.explain(case.llm, self.prompt, active=self._marked(active), silent=_unmarked(silent))
        return Draft(text, detail, evidence=size)

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return both kinds of text."""
        active, silent = self._sides(case)
        return [Group(ACTIVE, excerpts=self._marked(active)), Group(SILENT, excerpts=_unmarked(silent))]

    def _marked(self, active: Sequence[Exemplar]) -> tuple[Excerpt, ...]:
        return tuple(marked(active, self._mark_share))

    def _sides(self, case: DescriberCase) -> tuple[list[Exemplar], list[Exemplar]]:
        """Return the activating windows and the similar silent ones, all cropped; raises ``Unanswered`` if none fit."""
        room, silent_room = shares(case.budget, 2)
        highest = activating_windows(case, "top", self._active, 1.0, None)
        least = highest[-1].activation
        limit = self._silent_fraction * least
        quarter = lowest_quarter([window.activation for window in case.windows(Split.EXPLAIN, Source.RANDOM)])
        silent = {
            window.window: window
            for window in case.exemplars
            if window.split is Split.EXPLAIN
            and (window.activation < limit or window.activation <= quarter)
            and window.activation < least
        }
        if not silent:
            raise Unanswered(Status.FAILED, "the neuron is active on every window of the explain split")
        length = 2 * self._context + 1
        active = [window.crop(length, shift=False) for window in highest]
        alike = self._alike(active, [silent[number].crop(length, shift=False) for number in sorted(silent)])
        shown, shown_silent = within(active, room), within(alike, silent_room)
        if not shown or not shown_silent:
            raise Unanswered(Status.FAILED, f"a budget of {case.budget} tokens is too small for both sides")
        return shown, shown_silent

    def _alike(self, active: Sequence[Exemplar], silent: Sequence[Exemplar]) -> list[Exemplar]:
        """Return, for each activating window in turn, the most similar silent one that is not yet chosen."""
        vectors = self.encoder.encode(["".join(window.tokens).strip() for window in [*active, *silent]])
        similarity = vectors[: len(active)] @ vectors[len(active) :].T
        order = np.argsort(-similarity, axis=1, kind="stable")  # equal similarities keep the order of the corpus
        chosen: dict[int, None] = {}
        for turn in range(min(self._silent, len(silent))):
            nearest = next(index for index in order[turn % len(active)].tolist() if index not in chosen)
            chosen[nearest] = None
        return [silent[index] for index in chosen]


def _unmarked(silent: Sequence[Exemplar]) -> tuple[Excerpt, ...]:
    return tuple(Excerpt(window, 0, math.inf) for window in silent)
