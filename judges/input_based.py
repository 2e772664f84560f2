"""An LLM writes text from a description, and the neuron says whether it is active on it.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (input-based evaluation).
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from harness.checks import require_count
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Status
from judges.numbered import SENTENCE_ROOM, Sentence, ask_numbered


class InputBased(Scorer):
    """Scores a description by whether sentences that an LLM writes to fit it activate the neuron more than others.

    The value is 1 if the mean, over the sentences, of the highest activation is higher on the former, else 0: chance
    0.5; averaged over neurons it is the published success rate. ``auc``, from 0 to 1, chance 0.5, is how often a
    fitting sentence activates the neuron more than a neutral one; ``activating`` and ``neutral`` are the two means.

    Args:
        role: the LLM role that writes.
        sentences: sentences of each kind; 5 is the published number.
    """

    prompt = Prompt("judges", "prompts/input_based.j2")

    def __init__(self, role: str = "judge", sentences: int = 5) -> None:
        require_count("sentences", sentences, 1)
        self.role, self._sentences = role, sentences

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Have the sentences written, and read them."""
        prompt = self.prompt.render(description=description, count=self._sentences)
        count = 2 * self._sentences
        llm = case.require_llm()
        written = await ask_numbered(llm, prompt, "sentence", count, Sentence, reason=False, room=SENTENCE_ROOM)
        read = await case.read(written)
        if not all(item.activations for item in read):
            raise Unanswered(Status.UNPARSED, "the LLM wrote a sentence without any token that the subject knows")
        peaks = np.array([item.activation for item in read])
        fitting, neutral = peaks[: self._sentences], peaks[self._sentences :]
        labels = [1] * self._sentences + [0] * self._sentences
        metrics = {
            "auc": float(roc_auc_score(labels, peaks)),
            "activating": float(fitting.mean()),
            "neutral": float(neutral.mean()),
        }
        return Grade(float(fitting.mean() > neutral.mean()), metrics)
