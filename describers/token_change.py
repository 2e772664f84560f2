"""Descriptions from what a neuron, clamped, does to the model's next token.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (TokenChange): the neuron is clamped to +-10 over 32 prompts of 32
tokens, and the tokens whose logits move most are described. The prompt is ours and stands in full beside this module.
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
from harness.records import Effect, ScoredToken, Status


class TokenChange(ExplainerDescriber):
    """Describes a neuron from the tokens that become likelier and unlikelier when it is clamped.

    Args:
        tokens: tokens shown of those that rise, and of those that fall, at each value.
        opposite: whether values below zero, at which the neuron is held against its own sign, are shown too.
        target_words: length asked of the description; in the extractive form, the number of tokens.
        mode: ``auto``, ``llm`` or ``extractive``.
    """

    needs_effects = True
    prompt = Prompt("describers", "prompts/token_change.j2")

    def __init__(self, tokens: int = 25, opposite: bool = True, target_words: int = 30, mode: str = "auto") -> None:
        super().__init__(target_words, mode)
        require_count("tokens", tokens, 1)
        self._tokens, self._opposite = tokens, opposite

    async def describe(self, case: DescriberCase) -> Draft:
        """Show what rises and falls and ask, or name what rises when the neuron is active."""
        if case.llm is None:
            return self._extract(case)
        ends = self._ends(case)
        values = [(effect.value > 0, raised, lowered) for effect, raised, lowered in ends]
        answer = await ask(
            case.llm, self.prompt.render(values=values, words=self.target_words), explanation(self.target_words)
        )
        shown = [token for _, raised, lowered in ends for token in (*raised, *lowered)]
        return Draft(answer.description, _detail(self._shown(case)), evidence=size_of(tokens=shown))

    def show(self, case: DescriberCase) -> Sequence[Group]:
        """Return what rises and falls at each value."""
        groups = []
        for effect, raised, lowered in self._ends(case):
            way = "on" if effect.value > 0 else "the opposite way (below zero)"
            for tokens, become in ((raised, "likelier"), (lowered, "unlikelier")):
                about = f"Tokens that become {become} as the next one when the neuron is forced {way}, strongest first."
                groups.append(Group(about, tokens=tuple(tokens)))
        return [group for group in groups if group.tokens]

    def _shown(self, case: DescriberCase) -> list[Effect]:
        """Return the effects to show, that of the highest value first."""
        shown = [effect for effect in case.effects if effect.value > 0 or self._opposite]
        if not shown:
            raise Unanswered(Status.FAILED, _nothing(case.effects))
        return sorted(shown, key=lambda effect: -effect.value)

    def _ends(self, case: DescriberCase) -> list[tuple[Effect, list[str], list[str]]]:
        """Return, at each value, the tokens that rise and those that fall, within the budget."""
        shown = self._shown(case)
        room = iter(shares(case.budget, 2 * len(shown)))
        if case.budget == 0:
            raise Unanswered(Status.FAILED, "a budget of 0 tokens leaves no room for a token")
        return [
            (
                effect,
                _texts(effect.promoted[: self._tokens])[: next(room)],
                _texts(effect.suppressed[: self._tokens])[: next(room)],
            )
            for effect in shown
        ]

    def _extract(self, case: DescriberCase) -> Draft:
        """Take the tokens that the neuron makes likelier at its highest value, or unlikelier at its lowest."""
        shown = self._shown(case)
        highest, lowest = shown[0], shown[-1]
        found = highest.promoted if highest.value > 0 else lowest.suppressed
        tokens = _texts(found[: self._tokens])[: case.budget]
        return Draft(extract(tokens, self.target_words), _detail(shown), evidence=size_of(tokens=tokens))


def _detail(shown: Sequence[Effect]) -> str:
    return f"from clamping to {', '.join(f'{effect.value:g}' for effect in shown)}"


def _texts(tokens: Sequence[ScoredToken]) -> list[str]:
    return [token.token for token in tokens]


def _nothing(effects: Sequence[Effect]) -> str:
    if effects:
        return "the neuron was clamped to values below zero only (steering.effects.values)"
    return "the neuron is never active on the explain split, so there is no peak to clamp it to (steering.effects.unit)"
