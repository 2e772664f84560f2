"""Descriptions from the effect of clamping a neuron on the model's next token.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (TokenChange): the neuron is clamped to +-10 over 32 prompts of 32
tokens, and the tokens whose logits change most are described. The prompt is ours (``prompts/token_change.j2``).
"""

from __future__ import annotations

from collections.abc import Sequence

from describers.answers import OUTPUT_ROLES, ExplainerDescriber, by_strength, extract
from describers.evidence import Group, shares, size_of, texts_of
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import DescriberCase, Draft, Mode
from harness.records import Effect, Status
from harness.validation import Count, validated


class TokenChange(ExplainerDescriber):
    """Describes a neuron from the tokens that become more and less likely when the neuron is clamped."""

    needs_effects = True
    prompt = Prompt("describers", "prompts/token_change.j2")

    @validated
    def __init__(
        self, tokens: Count = 25, opposite: bool = True, target_words: Count = 30, mode: Mode = "auto"
    ) -> None:
        super().__init__(target_words, mode)
        self._tokens, self._opposite = tokens, opposite

    async def describe(self, case: DescriberCase) -> Draft:
        """Show promoted and suppressed tokens to the explainer, or list what the active neuron changes most."""
        effects = self._effects(case)
        detail = f"from clamping to {', '.join(f'{effect.value:g}' for effect in effects)}"
        if case.llm is None:
            highest, lowest = effects[0], effects[-1]
            high, low = highest.promoted, highest.suppressed
            if highest.value <= 0:
                high, low = lowest.suppressed, lowest.promoted
            found = by_strength(high[: self._tokens], low[: self._tokens], OUTPUT_ROLES)[: case.budget]
            tokens = extract(found, self.target_words)
            return Draft(tokens.text, detail, evidence=size_of(tokens=[token for _, token in found]), tokens=tokens)
        ends = self._ends(case, effects)
        values = [(effect.value > 0, raised, lowered) for effect, raised, lowered in ends]
        text = await self.explain(case.llm, self.prompt, values=values)
        shown = [token for _, raised, lowered in ends for token in (*raised, *lowered)]
        return Draft(text, detail, evidence=size_of(tokens=shown))

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return the promoted and suppressed tokens at each value."""
        groups = []
        for effect, raised, lowered in self._ends(case, self._effects(case)):
            way = "on" if effect.value > 0 else "the opposite way (below zero)"
            for tokens, become in ((raised, "likelier"), (lowered, "unlikelier")):
                about = f"Tokens that become {become} as the next one when the neuron is forced {way}, strongest first."
                groups.append(Group(about, tokens=tuple(tokens)))
        return [group for group in groups if group.tokens]

    def _effects(self, case: DescriberCase) -> list[Effect]:
        """Return the effects to show, highest value first."""
        shown = [effect for effect in case.effects if effect.value > 0 or self._opposite]
        if not shown:
            raise Unanswered(
                Status.FAILED,
                "the neuron was clamped to values below zero only (steering.effects.values)"
                if case.effects
                else "the neuron is never active on the explain split, so there is no peak to clamp it to "
                "(steering.effects.unit)",
            )
        return sorted(shown, key=lambda effect: -effect.value)

    def _ends(self, case: DescriberCase, effects: Sequence[Effect]) -> list[tuple[Effect, list[str], list[str]]]:
        """Return the promoted and the suppressed tokens of each effect, within the budget."""
        if case.budget == 0:
            raise Unanswered(Status.FAILED, "a budget of 0 tokens leaves no room for a token")
        room = iter(shares(case.budget, 2 * len(effects)))
        return [
            (
                effect,
                texts_of(effect.promoted[: self._tokens])[: next(room)],
                texts_of(effect.suppressed[: self._tokens])[: next(room)],
            )
            for effect in effects
        ]
