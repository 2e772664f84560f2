"""Scores a description by how much it lowers a language model's surprisal at text that activates the neuron.

The log-probability of each window is read from the prompt, once after the description and once without it. The
difference, in nats per token, predicts where the neuron is active (pointwise mutual information of description and
text). The model need not follow instructions or write anything, so small models can judge; it must know the words.
"""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, PromptLogprobs, Unanswered
from harness.llm.prompts import Prompt, quoted
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Status
from harness.validation import METHOD, CountOrZero
from judges.accuracy import Floats, varies
from judges.parts import Predicted
from judges.sampling import Sampler


@dataclass(config=METHOD, eq=False)
class Surprisal(Sampler, Scorer):
    """Scores a description by how well the surprisal that it takes from windows finds the active ones.

    The value is ``auprc``: from 0 to 1, chance ``base``. The windows, their weights and the other metrics are those of
    :class:`judges.sampling.Sampler`. ``gain`` is the mean difference of log-probability in active windows, minus that
    in the others, in nats per token. ``constant`` is 1 if the difference does not vary.
    """

    needs_logprobs = True
    prompt = Prompt("judges", "prompts/surprisal.j2")

    role: str = "judge"
    context: CountOrZero = 16

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Read the log-probabilities of all windows.

        Raises:
            Unanswered: if those of a window cannot be read, or the neuron has no active or no silent window.
        """
        llm = case.require_llm()
        sample = self.draw(case)
        texts = sample.excerpts(self.context)

        async def read(given: str | None) -> Floats:
            return np.array(await all_answers(self._log_probability(llm, given, text) for text in texts))

        described, plain = await Predicted.asked(case, description, read), await read(None)
        gained = described.map(lambda values: values - plain)
        active, weights = sample.active, sample.weights
        mean, others = (np.average(gained.best[kind], weights=weights[kind]) for kind in (active, ~active))
        metrics = {**sample.metrics(gained), "gain": float(mean - others), "constant": float(not varies(gained.best))}
        return Grade(metrics.pop("auprc"), metrics)

    async def _log_probability(self, llm: LLMClient, description: str | None, text: str) -> float:
        """Return the mean log-probability of a text's tokens after a description, or without one."""
        messages = self.prompt.render(description=description, text=text)
        answer = await llm.token_logprobs(messages, top=1)
        if answer.status is not Status.OK:
            raise Unanswered(answer.status, answer.detail)
        found = text_logprobs(answer, quoted(text))
        if not found:
            raise Unanswered(Status.FAILED, "the model's chat template or tokenizer changes the text")
        return float(np.mean(found))


def text_logprobs(answer: PromptLogprobs, text: str) -> list[float]:
    """Return the log-probability of each token that starts inside the text that ends a prompt; empty without it."""
    whole = "".join(token.text for token in answer.tokens)
    start = whole.rfind(text)
    found, offset = [], 0
    for token in answer.tokens:
        if 0 <= start <= offset < start + len(text) and token.text in token.alternatives:
            found.append(token.alternatives[token.text])
        offset += len(token.text)
    return found
