"""Descriptions from text that activates a neuron beside look-alike text that does not.

Source: Paulo et al. 2024, arXiv:2410.13928 (contrastive explanations; hard negatives by embedding similarity). What the
two have in common is not what the neuron responds to: the explainer is shown what it must leave out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from describers.answers import ExplainerDescriber, explanation, extract
from describers.evidence import Excerpt, Group, shares, size_of, within
from describers.windows import Sampling, activating, active_words, marked, words
from harness.checks import require, require_count
from harness.embedding import SentenceEncoder
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft
from harness.records import Exemplar, Split, Status

#: What each side's windows are, in words for the explainer.
ACTIVE = (
    "The neuron was run over texts. On these excerpts it was active, most so on the tokens between « and »; the peak "
    "of an excerpt is how active it was at its most active token, from 0 (hardly) to 10 (as active as it gets)."
)
SILENT = "On these excerpts it was hardly or not at all active, although they read much like those on which it was."


class Contrastive(ExplainerDescriber):
    """Describes a neuron from text of the explain split that activates it, beside look-alike text that does not.

    In the extractive form: the words that activate, without those that stand in the look-alike text as well.

    Args:
        encoder: the sentence encoder that finds the look-alikes.
        active: windows shown that activate, highest activation first.
        silent: windows shown that do not: for each activating one in turn, the most similar one not yet taken.
        silent_fraction: a window is silent if its peak is below this share of the lowest activating one's.
        context: tokens on either side of a window's peak that are shown and compared.
        mark_share: a token is marked from this share of its window's peak on.
        target_words: length asked of the description; in the extractive form, the number of tokens.
        mode: ``auto``, ``llm`` or ``extractive``.
    """

    needs_exemplars = True
    prompt = Prompt("describers", "prompts/contrastive.j2")

    def __init__(
        self,
        encoder: SentenceEncoder,
        active: int = 8,
        silent: int = 8,
        silent_fraction: float = 0.5,
        context: int = 16,
        mark_share: float = 0.3,
        target_words: int = 30,
        mode: str = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        for name, value in {"active": active, "silent": silent, "context": context}.items():
            require_count(name, value, 1)
        require(0 < silent_fraction <= 1, "silent_fraction", silent_fraction, "above 0 and at most 1")
        require(0 < mark_share <= 1, "mark_share", mark_share, "above 0 and at most 1")
        self.encoder = encoder
        self._active, self._silent, self._silent_fraction = active, silent, silent_fraction
        self._context, self._mark_share = context, mark_share

    async def describe(self, case: DescriberCase) -> Draft:
        """Show both sides and ask, or name the words that only the activating side has."""
        active, silent = self._sides(case)
        detail = f"from {len(active)} activating and {len(silent)} look-alike silent windows of the explain split"
        size = size_of([*active, *silent])
        if case.llm is None:
            shared = {word.lower() for window in silent for word, _ in words(window)}
            telling = active_words(active)
            alone = [word for word in telling if word.lower() not in shared]
            return Draft(extract(alone or telling, self.target_words), detail, evidence=size)
        prompt = self.prompt.render(active=self._marked(active), silent=_unmarked(silent), words=self.target_words)
        return Draft((await ask(case.llm, prompt, explanation(self.target_words))).description, detail, evidence=size)

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return both sides."""
        active, silent = self._sides(case)
        return [Group(ACTIVE, excerpts=self._marked(active)), Group(SILENT, excerpts=_unmarked(silent))]

    def _marked(self, active: Sequence[Exemplar]) -> tuple[Excerpt, ...]:
        return tuple(marked(active, self._mark_share))

    def _sides(self, case: DescriberCase) -> tuple[list[Exemplar], list[Exemplar]]:
        """Return the activating windows and their silent look-alikes, all cut to the context of their peaks.

        Raises:
            Unanswered: if there is no window of one of the two, or no room for one.
        """
        room, room_of_silent = shares(case.budget, 2)
        whole = activating(case, Sampling.TOP, self._active, 1.0, None)
        limit = self._silent_fraction * whole[-1].activation
        silent = {
            window.window: window
            for window in case.exemplars
            if window.split is Split.EXPLAIN and window.activation < limit
        }
        if not silent:
            raise Unanswered(Status.FAILED, "the neuron is active on every window of the explain split")
        length = 2 * self._context + 1
        active = [window.crop(length, shift=False) for window in whole]
        alike = self._alike(active, [silent[number].crop(length, shift=False) for number in sorted(silent)])
        shown, quiet = within(active, room), within(alike, room_of_silent)
        if not shown or not quiet:
            raise Unanswered(Status.FAILED, f"a budget of {case.budget} tokens is too small for both sides")
        return shown, quiet

    def _alike(self, active: Sequence[Exemplar], silent: Sequence[Exemplar]) -> list[Exemplar]:
        """Return for each activating window in turn the most similar silent one not yet taken."""
        texts = ["".join(window.tokens).strip() for window in [*active, *silent]]
        vectors = self.encoder.encode(texts)
        similarity = vectors[: len(active)] @ vectors[len(active) :].T
        order = np.argsort(-similarity, axis=1, kind="stable")  # equal ones keep the order of the corpus
        taken: dict[int, None] = {}
        for turn in range(min(self._silent, len(silent))):
            nearest = next(place for place in order[turn % len(active)].tolist() if place not in taken)
            taken[nearest] = None
        return [silent[place] for place in taken]


def _unmarked(silent: Sequence[Exemplar]) -> tuple[Excerpt, ...]:
    return tuple(Excerpt(window, 0, math.inf) for window in silent)
