"""Is the neuron active on text made from its description? Clarity, with an LLM that writes the text, and without.

Source: Puri et al. 2025 (FADE), who compare texts that an LLM makes from a description with natural ones. Here the
natural ones are cut to the same numbers of tokens and read alone: a longer text has a higher highest activation.
"""

from __future__ import annotations

import re
from abc import abstractmethod

from sklearn.metrics import roc_auc_score

from harness.checks import require_count
from harness.evidence import ReadText
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Split, Status
from harness.seeds import derive_rng
from judges.numbered import SENTENCE_ROOM, Sentence, ask_numbered


class _Clearness(Scorer):
    """Compares the neuron's activation on text made from a description with that on natural text as long."""

    def __init__(self, texts: int, natural: int) -> None:
        require_count("texts", texts, 1)
        require_count("natural", natural, 1)
        self._texts, self._natural = texts, natural

    @abstractmethod
    async def texts(self, case: JudgeCase, description: str) -> list[str]:
        """Return texts made from the description alone; raises ``Unanswered`` if there are none."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Read both kinds of text and compare the highest activations."""
        made = await case.read(await self.texts(case, description))
        lengths = [len(item.activations) for item in made if item.activations]
        if not lengths:
            raise Unanswered(Status.FAILED, "the text made from the description has no token that the subject knows")
        windows = case.windows(Split.REPORT, Source.RANDOM)[: self._natural]
        cut = [_cut(case, item, lengths[place % len(lengths)]) for place, item in enumerate(windows)]
        ours, natural = _peaks(made), _peaks(await case.read(cut))
        if not natural:
            raise Unanswered(Status.FAILED, "the report split has no random window")
        auc = roc_auc_score([1] * len(ours) + [0] * len(natural), ours + natural)
        metrics = {"texts": float(len(ours)), "tokens": sum(lengths) / len(lengths)}
        return Grade(2 * float(auc) - 1, metrics)


class Clarity(_Clearness):
    """Scores a description by clarity: do texts that an LLM writes from it activate the neuron more than natural ones?

    The value is 2 AUC - 1 of the highest activation: from -1 to 1, chance 0, negative if the neuron is the less active
    the better a text fits. ``texts`` and ``tokens`` say how many texts were made and how long they are on average.

    Args:
        role: the LLM role that writes.
        texts: texts that are written.
        natural: random windows of the report split that stand against them, at most.
    """

    prompt = Prompt("judges", "prompts/clarity.j2")

    def __init__(self, role: str = "judge", texts: int = 10, natural: int = 40) -> None:
        super().__init__(texts, natural)
        self.role = role

    async def texts(self, case: JudgeCase, description: str) -> list[str]:
        """Have them written."""
        prompt = self.prompt.render(description=description, count=self._texts)
        llm = case.require_llm()
        return await ask_numbered(llm, prompt, "text", self._texts, Sentence, reason=False, room=SENTENCE_ROOM)


class OwnWords(_Clearness):
    """Scores a description without an LLM: do its own words activate the neuron more than natural text as long?

    The description is cut at commas, semicolons, colons, full stops, line breaks, brackets and quotation marks, and the
    subject reads each piece alone. Figures, ranges and chance as those of :class:`Clarity`. It sees whether words are
    named that activate the neuron; a description in other words, however right, gains little.

    Args:
        texts: pieces read, from the beginning on, at most.
        natural: random windows of the report split that stand against them, at most.
    """

    def __init__(self, texts: int = 20, natural: int = 40) -> None:
        super().__init__(texts, natural)

    async def texts(self, case: JudgeCase, description: str) -> list[str]:
        """Cut the description."""
        pieces = re.split(r"[,;:.\n()\[\]\"“”«»]+(?:\s|$)|\s['‘(\[\"“«]|[\"”»)\]]", description)
        words = list(dict.fromkeys(piece.strip() for piece in pieces if piece.strip()))
        if not words:
            raise Unanswered(Status.FAILED, "the description has no words")
        return words[: self._texts]


def _cut(case: JudgeCase, exemplar: Exemplar, length: int) -> str:
    """Return so many tokens of a window, from a place that depends on the window alone."""
    last = max(0, len(exemplar.tokens) - length)
    start = int(derive_rng(case.seed, "natural text", exemplar.window).integers(last + 1))
    return "".join(exemplar.tokens[start : start + length]).strip()


def _peaks(texts: list[ReadText]) -> list[float]:
    return [item.activation for item in texts if item.activations]
