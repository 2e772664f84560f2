"""Descriptions from the vocabulary projection of the neuron's output weights.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (VocabProj): top and bottom tokens of final_norm(w_out) @ W_U.
"""

from __future__ import annotations

from collections.abc import Sequence

from describers.answers import ExplainerDescriber, Mode, extract
from describers.evidence import Group, shares, size_of, texts_of
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft
from harness.records import Status, VectorKind
from harness.validation import Count, validated


class VocabProj(ExplainerDescriber):
    """Describes a neuron from the tokens that one whole weight vector promotes and suppresses most."""

    prompt = Prompt("describers", "prompts/vocab_proj.j2")

    @validated
    def __init__(
        self,
        kind: VectorKind = VectorKind.OUT,
        tokens: Count = 50,
        final_norm: bool = True,
        target_words: Count = 30,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        self._kind, self._tokens, self._final_norm = kind, tokens, final_norm

    async def describe(self, case: DescriberCase) -> Draft:
        """Show both ends of the projection to the explainer, or list the promoted tokens."""
        detail = f"from the projection of the {self._kind} vector"
        if case.llm is None:
            top, _ = self._ends(case, case.budget, 0)
            return Draft(extract(top, self.target_words), detail, evidence=size_of(tokens=top))
        top, bottom = self._ends(case, *shares(case.budget, 2))
        text = await self.explain(case.llm, self.prompt, writes=self._kind is VectorKind.OUT, top=top, bottom=bottom)
        return Draft(text, detail, evidence=size_of(tokens=[*top, *bottom]))

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return both ends of the projection."""
        top, bottom = self._ends(case, *shares(case.budget, 2))
        does = "writes its output" if self._kind is VectorKind.OUT else "reads its input"
        about = f"the weight vector through which the neuron {does}, projected on the model's vocabulary"
        groups = [
            Group(f"Tokens that are promoted most by {about}, strongest first.", tokens=tuple(top)),
            Group(f"Tokens that are suppressed most by {about}, strongest first.", tokens=tuple(bottom)),
        ]
        return [group for group in groups if group.tokens]

    def _ends(self, case: DescriberCase, top: int | None, bottom: int | None) -> tuple[list[str], list[str]]:
        """Return the promoted and the suppressed tokens, at most ``top`` and ``bottom`` of them."""
        if top == 0:
            raise Unanswered(Status.FAILED, f"a budget of {case.budget} tokens leaves no room for a token")
        promoted, suppressed = case.subject.vocabulary_tokens(
            case.neuron, self._kind, self._tokens, final_norm=self._final_norm and self._kind is VectorKind.OUT
        )
        return texts_of(promoted[:top]), texts_of(suppressed[:bottom])
