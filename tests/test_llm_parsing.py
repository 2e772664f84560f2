"""Reading answers: the object in the text, refusals, and failures."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Literal

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.endpoint import HELLO

from harness.llm.asking import ask, declines, fits, parse
from harness.llm.client import Completion, Unanswered
from harness.llm.scripted import ScriptedClient
from harness.records import Status


class Verdict(pydantic.BaseModel):
    winner: Literal["A", "B", "tie"]
    reason: str = ""


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ('{"winner": "A"}', "A"),
        ('  {"winner": "A"}\n', "A"),
        ('```json\n{"winner": "B"}\n```', "B"),
        ('I think {"winner": "A"}, no: {"winner": "tie", "reason": "{"}. Done.', "tie"),
        ('{"winner": "A"} or rather {"winner": "C"}', "A"),
        ('<think>{"winner": "A"}</think>{"winner": "B"}', "B"),
        ('<think>first {"winner": "B"}</think> so be it', "B"),
        ('{"winner": "B", "reason": "see </think>"}', "B"),
        ('{ {"winner": "A"}', "A"),
        ('{"reason": "a\tb\nc", "winner": "A"}', "A"),
        ('{"winner": "A", "reason": {"winner": "B"}} {"winner": "tie"} {"winner":', "tie"),
    ],
)
def test_the_last_object_that_fits_is_the_answer(text: str, winner: str) -> None:
    assert parse(text, Verdict).winner == winner


@pytest.mark.parametrize(
    "text", ["", "A", '"A"', '{"winner": "C"}', '{"winner": "A"', '{"result": {"winner": "A"}}', '[{"winner": ', "{}"]
)
def test_an_answer_that_does_not_fit_is_unparsed(text: str) -> None:
    with pytest.raises(Unanswered) as failure:
        parse(text, Verdict)
    assert failure.value.status is Status.UNPARSED


def test_an_unparsed_answer_shows_how_it_began() -> None:
    with pytest.raises(Unanswered, match="My dear friend") as failure:
        parse("My dear\n\nfriend" + "!" * 1000, Verdict)
    assert len(failure.value.detail) < 300


class Anything(pydantic.BaseModel):
    """An answer whose validator raises errors of any kind."""

    number: float = 0.0
    text: str = ""

    @pydantic.field_validator("text")
    @classmethod
    def reckless(cls, text: str) -> str:
        return text + str(1 / len(text)) + text[3]


json_texts = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["winner", "text", "number", "x"]), inner),
    max_leaves=8,
).map(json.dumps)
scraps = st.sampled_from(["{", "}", '"', "</think>", "```json\n", '{"winner": "A"}', "\\", "[", ":", "NaN", "\ud800"])


@settings(deadline=None)
@given(st.lists(st.text() | json_texts | scraps, max_size=8).map("".join))
@example("{" * 4_000)
@example('{"a":' * 4_000)
@example('{"winner":' + "[" * 4_000)
@example('{"number": ' + "9" * 5_000 + "}")
@example('{"number": NaN}')
@example('{"number": 1e999}')
@example('{"text": ""}')
@example('{"text": "\\ud800"}')
def test_no_text_makes_parse_fail_otherwise(text: str) -> None:
    for kind in (Verdict, Anything):
        with suppress(Unanswered):  # and nothing else
            assert isinstance(parse(text, kind), kind)


@given(
    st.text(), st.sampled_from(["A", "B", "tie"]), st.text(), st.text(alphabet=st.characters(exclude_characters="{"))
)
def test_an_answer_is_found_in_any_surrounding_text(before: str, winner: str, reason: str, after: str) -> None:
    verdict = Verdict(winner=winner, reason=reason)
    fence = verdict.model_dump_json()
    assert parse(
        f"</think>{before.replace('{', '')}\n```json\n{fence}\n```{after.replace('</think>', '')}", Verdict
    ) == (verdict if "</think>" not in reason else parse(fence, Verdict))


@pytest.mark.parametrize("status", [Status.REFUSED, Status.TRUNCATED, Status.FAILED])
def test_a_missing_answer_raises_its_status(status: Status) -> None:
    client = ScriptedClient([Completion('{"winner": "A"}', status, "so it is")])
    with pytest.raises(Unanswered, match="so it is") as failure:
        asyncio.run(ask(client, HELLO, Verdict))
    assert failure.value.status is status


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "Sorry, I cannot assist with this request.",
        "I’m sorry — I can’t comply.",
        "As an AI language model, I cannot provide that.",
        "I am unable to help with this.",
        "Unfortunately, I won't answer that.",
        "<think>Hm.</think>\nI apologize, but I cannot fulfil this.",
    ],
)
def test_a_refusal_in_prose_is_recognised(text: str) -> None:
    assert declines(text)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot tell which description is better, so it is a tie.",
        "I can't help but notice that A names the tokens.",
        "phrases of apology and refusal such as \"I'm sorry, I can't help with that\"",
        '"I\'m sorry", "I can\'t help"',
        "Sorry is the word the neuron responds to.",
        "help, assistance and inability to comply",
        "I'm sorry for the delay: B.",
        "",
    ],
)
def test_an_answer_about_refusals_is_not_a_refusal(text: str) -> None:
    assert not declines(text)


def test_an_object_that_gives_a_name_two_values_is_no_answer() -> None:
    schema = Verdict.model_json_schema()
    assert not fits('{"winner": "A", "winner": "B"}', schema)
    assert fits('{"winner": "A", "winner": "A"}', schema)
    assert fits('{"winner": "A", "winner": "B"} {"winner": "tie"}', schema)
