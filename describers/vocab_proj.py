"""Descriptions from the vocabulary projection of the neuron's output weights.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (VocabProj): top and bottom tokens of final_norm(w_out) @ W_U.
"""

from __future__ import annotations

from describers.answers import Explanation, Form, extract
from harness.llm.asking import ask
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import VectorKind


class VocabProj(Describer):
    """Describes a neuron from the tokens that one whole weight vector promotes and suppresses most.

    Args:
        kind: the weight vector.
        tokens: tokens shown from each end.
        final_norm: whether the final norm is applied to the vector first, where the model has one.
        words: length asked of the description; in the extractive form, the number of tokens.
        form: ``auto``, ``llm`` or ``extractive``.
    """

    prompt = Prompt("describers", "prompts/vocab_proj.j2")

    def __init__(
        self, kind: str = "out", tokens: int = 50, final_norm: bool = True, words: int = 30, form: str = "auto"
    ) -> None:
        self._kind, self._tokens, self._final_norm, self._words = VectorKind(kind), tokens, final_norm, words
        self.role = None if Form(form) is Form.EXTRACTIVE else "explainer"
        self.llm_required = Form(form) is Form.LLM

    async def describe(self, case: DescriberCase) -> Draft:
        """Show both ends of the projection and ask, or name the promoted tokens."""
        top, bottom = case.subject.vocabulary_tokens(
            case.neuron, self._kind, self._tokens, final_norm=self._final_norm and self._kind is VectorKind.OUT
        )
        detail = f"from the projection of the {self._kind} vector"
        if case.llm is None:
            return Draft(extract([token.token for token in top], self._words), detail)
        prompt = self.prompt.render(
            writes=self._kind is VectorKind.OUT,
            top=[token.token for token in top],
            bottom=[token.token for token in bottom],
            words=self._words,
        )
        return Draft((await ask(case.llm, prompt, Explanation)).description, detail)
