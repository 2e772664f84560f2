"""Descriptions from the vocabulary projection of the neuron's output weights.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (VocabProj): top and bottom tokens of final_norm(w_out) @ W_U.
"""

from __future__ import annotations

from collections.abc import Sequence

from describers.answers import INPUT_ROLES, OUTPUT_ROLES, ExplainerDescriber, by_strength, extract
from describers.evidence import Group, shares, size_of, texts_of
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft, Mode
from harness.records import ScoredToken, Status, VectorKind
from harness.validation import Count, validated

Tails = tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]


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
        """Show both ends of the projection to the explainer, or list their strongest tokens."""
        detail = f"from the projection of the {self._kind} vector"
        if case.llm is None:
            high, low = self._ends(case, None, None)
            roles = OUTPUT_ROLES if self._kind is VectorKind.OUT else INPUT_ROLES
            shown = by_strength(high, low, roles)[: case.budget]
            tokens = extract(shown, self.target_words)
            return Draft(tokens.text, detail, evidence=size_of(tokens=[token for _, token in shown]), tokens=tokens)
        top, bottom = map(texts_of, self._ends(case, *shares(case.budget, 2)))
        text = await self.explain(case.llm, self.prompt, writes=self._kind is VectorKind.OUT, top=top, bottom=bottom)
        return Draft(text, detail, evidence=size_of(tokens=[*top, *bottom]))

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return both ends of the projection."""
        top, bottom = map(texts_of, self._ends(case, *shares(case.budget, 2)))
        does = "writes its output" if self._kind is VectorKind.OUT else "reads its input"
        about = f"the weight vector through which the neuron {does}, projected on the model's vocabulary"
        groups = [
            Group(f"Tokens that are promoted most by {about}, strongest first.", tokens=tuple(top)),
            Group(f"Tokens that are suppressed most by {about}, strongest first.", tokens=tuple(bottom)),
        ]
        return [group for group in groups if group.tokens]

    def _ends(self, case: DescriberCase, top: int | None, bottom: int | None) -> Tails:
        """Return the promoted and the suppressed tokens, at most ``top`` and ``bottom`` of them."""
        if top == 0 or case.budget == 0:
            raise Unanswered(Status.FAILED, f"a budget of {case.budget} tokens leaves no room for a token")
        promoted, suppressed = case.subject.vocabulary_tokens(
            case.neuron, self._kind, self._tokens, final_norm=self._final_norm and self._kind is VectorKind.OUT
        )
        return promoted[:top], suppressed[:bottom]
