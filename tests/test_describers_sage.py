"""Sage tests its hypotheses on the subject: it ends when one is confirmed, and revises one that is contradicted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

from support.describer_cases import NEURON, case, describe, failure, window

from describers.sage import Sage
from harness.evidence import ReadText, TextReader
from harness.llm.scripted import ScriptedClient
from harness.records import EvidenceSize, Neuron, Status

WINDOWS = [window([" we", " met", " in", f" {year}"], [0, 0, 0, 5.0 + year % 10]) for year in (1990, 1997)]


class YearReader:
    """The neuron of the story: it is active on every word of four digits, most so on years of the nineties."""

    def __init__(self) -> None:
        self.read_texts: list[str] = []

    async def read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        assert neuron == NEURON
        self.read_texts += texts
        return [ReadText(text, tuple(map(self._value, text.split()))) for text in texts]

    @staticmethod
    def _value(word: str) -> float:
        return 9.0 if word.startswith("199") else 6.0 if len(word) == 4 and word.isdigit() else 0.0


def answer(hypothesis: str, activating: Sequence[str], silent: Sequence[str]) -> str:
    found = {"description": hypothesis}
    for kind, texts in (("activating", activating), ("silent", silent)):
        found |= {f"{kind}_{number}": text for number, text in enumerate(texts, 1)}
    return json.dumps(found)


def given(client: ScriptedClient, reader: object, **more: Any) -> Any:
    return case(exemplars=WINDOWS, llm=client, reader=cast(TextReader, reader), **more)


RIGHT = answer("years of four digits", ["written in 1066 ."], ["ten thousand words"])


def test_a_confirmed_hypothesis_is_the_description() -> None:
    client, reader = ScriptedClient([RIGHT]), YearReader()
    draft = describe(Sage(sentences=1), given(client, reader))
    assert draft.text == "years of four digits"
    assert draft.detail == "from 2 windows of the explain split; 1 of 1 hypotheses confirmed"
    assert draft.evidence == EvidenceSize(4, 4 + 4 + 4 + 3)
    assert reader.read_texts == ["written in 1066 .", "ten thousand words"]
    assert len(client.requests) == 1


def test_a_contradicted_hypothesis_is_shown_with_its_activations_and_revised() -> None:
    client = ScriptedClient([answer("the nineties", ["born in 1850 ."], ["born in 1991 ."]), RIGHT])
    draft = describe(Sage(sentences=1), given(client, YearReader()))
    assert draft.text == "years of four digits"
    assert draft.steps == ("the nineties", "years of four digits")
    shown = client.requests[1].text
    assert "<hypothesis>the nineties</hypothesis>" in shown
    # Relative to the highest window, 12: floor(10 * 6 / 12) and floor(10 * 9 / 12).
    assert '<sentence should="activate" peak="5">born in 1850 .</sentence>' in shown
    assert '<sentence should="not activate" peak="7">born in 1991 .</sentence>' in shown


def test_after_the_last_round_the_explainer_describes_what_it_saw() -> None:
    own = "any year of the nineties of the last century"
    contradicted = answer(own, ["no digits here"], ["born in 1991 ."])
    client = ScriptedClient([contradicted, contradicted, json.dumps({"description": f"{own} and other years"})])
    draft = describe(Sage(rounds=2, sentences=1), given(client, YearReader()))
    assert draft.text == f"{own} and other years"  # it may repeat its own words, unlike those of the prompt
    assert len(client.requests) == 3  # rounds + 1
    assert draft.detail.endswith("0 of 2 hypotheses confirmed")
    client = ScriptedClient(
        [contradicted, contradicted, json.dumps({"description": "The neuron responds to the tokens"})]
    )
    assert failure(Sage(rounds=2, sentences=1), given(client, YearReader())).status is Status.DEGENERATE


def test_windows_and_sentences_share_the_budget() -> None:
    client = ScriptedClient([RIGHT, json.dumps({"description": "years of four digits"})])
    draft = describe(Sage(rounds=1, sentences=1), given(client, YearReader(), budget=8))
    assert draft.evidence.tokens <= 8
    assert '<sentence should="activate" peak="5">' in client.requests[1].text
    assert "ten thousand words" not in client.requests[1].text  # 4 + 3 tokens exceed the other half


def test_without_a_reader_it_describes_the_windows() -> None:
    client = ScriptedClient([json.dumps({"description": "years"})])
    draft = asyncio.run(Sage().describe(case(exemplars=WINDOWS, llm=client)))
    assert (draft.text, draft.detail) == ("years", "from 2 windows of the explain split; no tests")
    assert "hypothesis" not in client.requests[0].text
