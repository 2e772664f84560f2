"""Hand-made evidence of neurons, and helpers of the tests of describers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from harness.llm.client import LLMClient, Unanswered
from harness.llm.scripted import ScriptedClient
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Channel, Exemplar, Neuron, ScoredToken, Source, Split, VectorKind
from harness.subject import Subject

NEURON = Neuron(3, 17)
NOWHERE = Subject("unused", [])


def case(
    *,
    channels: Sequence[Channel] = (),
    exemplars: Sequence[Exemplar] = (),
    llm: LLMClient | None = None,
    subject: Subject = NOWHERE,
    **more: Any,
) -> DescriberCase:
    neuron = more.pop("neuron", NEURON)
    return DescriberCase(neuron, tuple(exemplars), subject, llm, 0, channels=tuple(channels), **more)


def describe(describer: Describer, given: DescriberCase) -> Draft:
    draft = asyncio.run(describer.describe(given))
    assert isinstance(draft, Draft)
    return draft


def saying(*texts: str) -> ScriptedClient:
    return ScriptedClient([json.dumps({"description": text}) for text in texts])


def failure(describer: Describer, given: DescriberCase) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        asyncio.run(describer.describe(given))
    return caught.value


def scored(tokens: Sequence[str]) -> tuple[ScoredToken, ...]:
    return tuple(ScoredToken(token, 9.0 - place) for place, token in enumerate(tokens))


def channel(
    rank: int,
    positive: Sequence[str],
    negative: Sequence[str] = (),
    kind: str = "in",
    skewness: float = 12.0,
    kurtosis: float = 80.0,
) -> Channel:
    return Channel(NEURON, VectorKind(kind), rank, kurtosis, skewness, 0.6, -1.0, 9, scored(positive), scored(negative))


def window(
    tokens: Sequence[str],
    activations: Sequence[float],
    split: Split = Split.EXPLAIN,
    source: Source = Source.TOP,
    number: int = 0,
) -> Exemplar:
    return Exemplar(NEURON, split, source, f"document {number}", number, tuple(tokens), tuple(activations))


def shown_tokens(text: str) -> list[str]:
    return re.findall(r"<token>(.*?)</token>", text)
