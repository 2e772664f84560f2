"""Descriptions from the vocabulary projection of the neuron's output weights.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (VocabProj): top and bottom tokens of final_norm(w_out) @ W_U.
"""

from __future__ import annotations

from collections.abc import Sequence

from describers.answers import ExplainerDescriber, explanation, extract
from describers.evidence import Group, shares, size_of
from harness.checks import require_count
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft
from harness.records import Status, VectorKind


class VocabProj(ExplainerDescriber):
    """Describes a neuron from the tokens that one whole weight vector promotes and suppresses most.

    Args:
        kind: the weight vector.
        tokens: tokens shown from each end.
        final_norm: whether the final norm is applied to the vector first, where the model has one.
        target_words: length asked of the description; in the extractive form, the number of tokens.
        mode: ``auto``, ``llm`` or ``extractive``.
    """

    prompt = Prompt("describers", "prompts/vocab_proj.j2")

    def __init__(
        self, kind: str = "out", tokens: int = 50, final_norm: bool = True, target_words: int = 30, mode: str = "auto"
    ) -> None:
        super().__init__(target_words, mode)
        require_count("tokens", tokens, 1)
        self._kind, self._tokens, self._final_norm = VectorKind(kind), tokens, final_norm

    async def describe(self, case: DescriberCase) -> Draft:
        """Show both ends of the projection and ask, or name the promoted tokens."""
        detail = f"from the projection of the {self._kind} vector"
        if case.llm is None:
            top, _ = self._ends(case, case.budget, 0)
            return Draft(extract(top, self.target_words), detail, evidence=size_of(tokens=top))
        top, bottom = self._ends(case, *shares(case.budget, 2))
        prompt = self.prompt.render(
            writes=self._kind is VectorKind.OUT, top=top, bottom=bottom, words=self.target_words
        )
        answer = await ask(case.llm, prompt, explanation(self.target_words))
        return Draft(answer.description, detail, evidence=size_of(tokens=[*top, *bottom]))

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

    def _ends(self, case: DescriberCase, room: int | None, room_below: int | None) -> tuple[list[str], list[str]]:
        """Return the promoted and the suppressed tokens, each at most as many as there is room for."""
        if room == 0:
            raise Unanswered(Status.FAILED, f"a budget of {case.budget} tokens leaves no room for a token")
        ends = case.subject.vocabulary_tokens(
            case.neuron, self._kind, self._tokens, final_norm=self._final_norm and self._kind is VectorKind.OUT
        )
        top, bottom = ([token.token for token in end] for end in ends)
        return top[:room], bottom[:room_below]
