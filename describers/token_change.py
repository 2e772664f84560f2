"""Descriptions from what a neuron, clamped, does to the model's next token.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (TokenChange): the neuron is clamped to +-10 over 32 prompts of 32
tokens, and the tokens whose logits move most are described. The prompt is ours and stands in full beside this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from describers.answers import Explanation, Form, extract
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Effect, EvidenceSize, ScoredToken, Status


class TokenChange(Describer):
    """Describes a neuron from the tokens that become likelier and unlikelier when it is clamped.

    Args:
        tokens: tokens shown of those that rise, and of those that fall, at each value.
        opposite: whether values below zero, at which the neuron is held against its own sign, are shown too.
        words: length asked of the description; in the extractive form, the number of tokens.
        form: ``auto``, ``llm`` or ``extractive``.
    """

    needs_effects = True
    prompt = Prompt("describers", "prompts/token_change.j2")

    def __init__(self, tokens: int = 25, opposite: bool = True, words: int = 30, form: str = "auto") -> None:
        self._tokens, self._opposite, self._words = tokens, opposite, words
        self.role = None if Form(form) is Form.EXTRACTIVE else "explainer"
        self.llm_required = Form(form) is Form.LLM

    async def describe(self, case: DescriberCase) -> Draft:
        """Show what rises and falls and ask, or name what rises when the neuron is active."""
        shown = [effect for effect in case.effects if effect.value > 0 or self._opposite]
        shown.sort(key=lambda effect: -effect.value)
        if not shown:
            raise Unanswered(Status.FAILED, _nothing(case.effects))
        detail = f"from clamping to {', '.join(f'{effect.value:g}' for effect in shown)}"
        if case.llm is None:
            return self._extract(shown, detail)
        values = [
            (effect.value > 0, _texts(effect.promoted[: self._tokens]), _texts(effect.suppressed[: self._tokens]))
            for effect in shown
        ]
        count = sum(len(raised) + len(lowered) for _, raised, lowered in values)
        answer = await ask(case.llm, self.prompt.render(values=values, words=self._words), Explanation)
        return Draft(answer.description, detail, evidence=EvidenceSize(tokens=count))

    def _extract(self, shown: Sequence[Effect], detail: str) -> Draft:
        """Take the tokens that the neuron makes likelier at its highest value, or unlikelier at its lowest."""
        highest, lowest = shown[0], shown[-1]
        found = highest.promoted if highest.value > 0 else lowest.suppressed
        tokens = _texts(found[: self._tokens])
        return Draft(extract(tokens, self._words), detail, evidence=EvidenceSize(tokens=len(tokens)))


def _texts(tokens: Sequence[ScoredToken]) -> list[str]:
    return [token.token for token in tokens]


def _nothing(effects: Sequence[Effect]) -> str:
    if effects:
        return "the neuron was clamped to values below zero only (steering.effects.values)"
    return "the neuron is never active on the explain split, so there is no peak to clamp it to (steering.effects.unit)"
