"""Descriptions from the text that activates a neuron most.

Source: Bills et al. 2023, *Language models can explain neurons in language models*: tokens with activations as integers
0-10 (relu, floor of 10 a / max over the shown records).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from describers.answers import Explanation, Form, extract
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Exemplar, Source, Split, Status


class MaxAct(Describer):
    """Describes a neuron from its highest activations on the explain split.

    Args:
        exemplars: windows shown, highest activation first.
        words: length asked of the description; in the extractive form, the number of tokens.
        form: ``auto``, ``llm`` or ``extractive``.
    """

    needs_exemplars = True
    prompt = Prompt("describers", "prompts/maxact.j2")

    def __init__(self, exemplars: int = 10, words: int = 30, form: str = "auto") -> None:
        self._exemplars, self._words = exemplars, words
        self.role = None if Form(form) is Form.EXTRACTIVE else "explainer"
        self.llm_required = Form(form) is Form.LLM

    async def describe(self, case: DescriberCase) -> Draft:
        """Show the windows and ask, or name the tokens that activate most."""
        shown = case.windows(Split.EXPLAIN, Source.TOP)[: self._exemplars]
        highest = max((exemplar.activation for exemplar in shown), default=0.0)
        if highest <= 0:
            raise Unanswered(Status.FAILED, "the neuron is never active on the explain split")
        detail = f"from {len(shown)} windows of the explain split"
        if case.llm is None:
            return Draft(extract(_most_active(shown), self._words), detail)
        records = [discretised(exemplar, highest) for exemplar in shown]
        answer = await ask(case.llm, self.prompt.render(records=records, words=self._words), Explanation)
        return Draft(answer.description, detail)


def discretised(exemplar: Exemplar, highest: float) -> list[tuple[str, int]]:
    """Return each token with its activation as an integer 0-10: floor of 10 relu(a) / ``highest``."""
    values = (min(10, math.floor(10 * max(activation, 0.0) / highest)) for activation in exemplar.activations)
    return list(zip(exemplar.tokens, values, strict=True))


def _most_active(shown: Sequence[Exemplar]) -> list[str]:
    """Return the words that activate, by their highest activation, then by how much they activate in all."""
    highest: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for exemplar in shown:
        for word, activation in _words(exemplar):
            highest[word] = max(highest[word], activation)
            total[word] += max(activation, 0.0)
    spoken = (word for word in total if highest[word] > 0 and any(map(str.isalnum, word)))
    return sorted(spoken, key=lambda word: (-highest[word], -total[word], word))


def _words(exemplar: Exemplar) -> list[tuple[str, float]]:
    """Join tokens into words (what is neither letter nor digit ends one), each with its highest activation."""
    words: list[tuple[str, float]] = []
    for token, activation in zip(exemplar.tokens, exemplar.activations, strict=True):
        if words and words[-1][0][-1:].isalnum() and token[:1].isalnum():
            word, highest = words[-1]
            words[-1] = (word + token, max(highest, activation))
        else:
            words.append((token.strip(), activation))
    return words
