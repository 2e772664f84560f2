"""Hand-made held-out evidence, and helpers of the tests of comparators and scorers."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from harness.embedding import SentenceEncoder
from harness.evidence import TextReader
from harness.llm.client import LLMClient, Unanswered
from harness.llm.scripted import Request, ScriptedClient
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Exemplar, Neuron, Source, Split
from harness.subject import Subject

NEURON = Neuron(3, 17)
NOWHERE = Subject("unused", [])
NUMBERS = itertools.count()
MARKER = "xyzzy"  # stands in every window that no judge may show


def window(
    tokens: Sequence[str] | str,
    activations: Sequence[float],
    source: Source = Source.TOP,
    split: Split = Split.REPORT,
    number: int | None = None,
) -> Exemplar:
    """Make a window; without a number, one of its own."""
    number = next(NUMBERS) if number is None else number
    words = re.findall(r"\s?\S+", tokens) if isinstance(tokens, str) else tokens
    return Exemplar(NEURON, split, source, f"document {number}", number, tuple(words), tuple(activations))


def peaked(text: str, peak: float, source: Source = Source.TOP, split: Split = Split.REPORT) -> Exemplar:
    """Make a window that is most active at its middle token."""
    words = re.findall(r"\s?\S+", text)
    return window(words, [peak if place == len(words) // 2 else 0.0 for place in range(len(words))], source, split)


def forbidden() -> list[Exemplar]:
    """Windows of the describers' splits, more active than any other."""
    return [peaked(MARKER, 99.0, source, split) for source in Source for split in (Split.EXPLAIN, Split.SELECT)]


def case(
    exemplars: Sequence[Exemplar],
    llm: LLMClient | None = None,
    reader: TextReader | None = None,
    neuron: Neuron = NEURON,
    seed: int = 0,
) -> JudgeCase:
    return JudgeCase(neuron, tuple(exemplars), NOWHERE, llm, seed, reader=reader)


def compare(judge: Comparator, given: JudgeCase, first: str, second: str) -> Judgement:
    return asyncio.run(judge.compare(given, first, second))


def score(judge: Scorer, given: JudgeCase, description: str) -> Grade:
    return asyncio.run(judge.score(given, description))


def verdict(letter: str, reason: str = "because") -> str:
    """Return the answer of an LLM that compares."""
    return json.dumps({"reason": reason, "verdict": letter})


def failure(action: Callable[[], object]) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        action()
    return caught.value


class Compass(SentenceEncoder):
    """An encoder whose texts are directions in degrees, such as ``"30"``; no two tokens are similar."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.seen += texts
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def encode_words(self, texts: Sequence[str]) -> Any:
        return np.zeros((len(texts), 2), dtype=np.float32)


def excerpts_of(request: Request) -> list[str]:
    """Return the excerpts of a question, in order."""
    found = re.findall(r"<excerpt_(\d+)>(.*)</excerpt_\1>", request.text)
    assert [number for number, _ in found] == [str(number + 1) for number in range(len(found))]
    return [text for _, text in found]


def rater(level: Callable[[str], Any]) -> ScriptedClient:
    """Make an LLM that says of each excerpt what a function of its text says."""

    def answer(request: Request) -> str:
        texts = excerpts_of(request)
        names = [f"excerpt_{number}" for number in range(1, len(texts) + 1)]
        assert request.schema is not None
        assert list(request.schema["properties"]) == ["reason", *names]  # the reason comes first
        return json.dumps({"reason": "so", **dict(zip(names, map(level, texts), strict=True))})

    return ScriptedClient(answer)
