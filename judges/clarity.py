"""Clarity: is the neuron active on text made from its description, written by an LLM or taken from the description?

Source: Puri et al. 2025 (FADE), who compare texts that an LLM makes from a description with natural ones. Here the
natural texts are cut to the same numbers of tokens and read alone, because a longer text has a higher peak.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TYPE_CHECKING

from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Split, Status
from harness.seeds import derive_rng
from harness.validation import Count, validated
from judges.accuracy import auroc
from judges.numbered import SENTENCE_TOKENS, Sentence, ask_numbered

if TYPE_CHECKING:
    from harness.evidence import ReadText


class _TextClarity(Scorer):
    """Compares the neuron's activation on text made from a description with that on natural text of equal length.

    The value is 2 AUC - 1 of the highest activations: from -1 to 1, chance 0, negative if the neuron is less active on
    the texts made. ``texts`` is the number of texts, ``tokens`` their mean length.
    """

    _natural: int

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
        cut = [_cut(case, item, lengths[index % len(lengths)]) for index, item in enumerate(windows)]
        peaks, natural = _peaks(made), _peaks(await case.read(cut))
        if not natural:
            raise Unanswered(Status.FAILED, "the report split has no random window")
        auc = auroc([1] * len(peaks) + [0] * len(natural), peaks + natural)
        metrics = {"texts": float(len(peaks)), "tokens": sum(lengths) / len(lengths)}
        return Grade(2 * float(auc) - 1, metrics)


class Clarity(_TextClarity):
    """Scores a description by whether texts that an LLM writes from it activate the neuron more than natural ones.

    The value and metrics are those of :class:`_TextClarity`.
    """

    prompt = Prompt("judges", "prompts/clarity.j2")

    @validated
    def __init__(self, role: str = "judge", texts: Count = 10, natural: Count = 40) -> None:
        self.role, self._texts, self._natural = role, texts, natural

    async def texts(self, case: JudgeCase, description: str) -> list[str]:
        """Have the LLM write the texts."""
        messages = self.prompt.render(description=case.shown(description), count=self._texts)
        llm = case.require_llm()
        return await ask_numbered(
            llm, messages, "text", self._texts, Sentence, reason=False, item_tokens=SENTENCE_TOKENS
        )


class OwnWords(_TextClarity):
    """Scores a description without an LLM: do its own words activate the neuron more than natural text?

    The description is cut at commas, semicolons, colons, full stops, line breaks, brackets and quotation marks, and the
    subject reads each piece alone. The value and metrics are those of :class:`_TextClarity`. A description that
    paraphrases the words that activate the neuron gains little, even if it is right.
    """

    @validated
    def __init__(self, texts: Count = 20, natural: Count = 40) -> None:
        self._texts, self._natural = texts, natural

    async def texts(self, case: JudgeCase, description: str) -> list[str]:
        """Cut the description into pieces."""
        pieces = re.split(r"[,;:.\n()\[\]\"“”«»]+(?:\s|$)|\s['‘(\[\"“«]|[\"”»)\]]", description)
        words = list(dict.fromkeys(piece.strip() for piece in pieces if piece.strip()))
        if not words:
            raise Unanswered(Status.FAILED, "the description has no words")
        return words[: self._texts]


def _cut(case: JudgeCase, exemplar: Exemplar, length: int) -> str:
    """Return ``length`` tokens of a window, from a position drawn by the window's number."""
    last = max(0, len(exemplar.tokens) - length)
    start = int(derive_rng(case.seed, "natural text", exemplar.window).integers(last + 1))
    return "".join(exemplar.tokens[start : start + length]).strip()


def _peaks(texts: list[ReadText]) -> list[float]:
    return [item.activation for item in texts if item.activations]
