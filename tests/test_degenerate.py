"""Descriptions that say nothing are recognised; short and unusual ones are not taken for such.

``data/explainer_outputs.json`` holds real answers of SmolLM2-135M-Instruct on vLLM (temperature 0, constrained to the
schema) about neurons of its own first layer and about planted concepts: each distinct answer once, labelled by hand.
The rules were written with the first 55 answers; what came later and was new is held out.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from describers.answers import Explanation
from harness.llm.client import Message, Unanswered
from harness.llm.degenerate import MIN_NEURONS, ask_description, same_for_most, why_degenerate
from harness.llm.scripted import ScriptedClient
from harness.records import SignedTokens, Status, TokenRole

DATA = json.loads((Path(__file__).parent / "data" / "explainer_outputs.json").read_text("utf-8"))
SYSTEM = Message("system", "You explain the inner parts of a language model.")
PROMPTS = [[SYSTEM, Message("user", text)] for text in DATA["prompts"]]

GOOD = """
days of the week
the word until
until
Ethiopia and other African countries
numbers
years of the 20th century
1990
!
the token "token"
'description' and its synonyms
曜日を表す単語
表示时间的词，例如“直到”
дни недели
أيام الأسبوع
past tense of verbs of motion
names of women
commas before a conjunction
the letter q
the token 7
words that end in -tion
closing brackets in code
words after a negation
the second part of split words, such as "incinnati"
prices in dollars and euros
suppresses punctuation
no clear pattern
responds to the first word of a sentence
the end of a quotation
activates on words about the law
promotes plural nouns
Python keywords such as def, return and lambda
neuroscience
descending order
French text
text about football
the neuron responds to tokens that mean a delay
sentences in which somebody refuses something
any anything anybody anyone
while whereas whilst although
five, eight, four, seven, six
excerpts from the Bible
concepts of physics: force, mass, energy
""".strip().splitlines()


def answers(*, held_out: bool) -> list[dict[str, Any]]:
    return [item for item in DATA["outputs"] if item["held_out"] is held_out]


def flagged(item: dict[str, Any]) -> bool:
    return bool(why_degenerate(item["text"], PROMPTS[item["prompt"]]))


def test_real_answers_that_the_rules_were_not_written_with() -> None:
    held_out = answers(held_out=True)
    degenerate = [item for item in held_out if item["degenerate"]]
    found = [item for item in held_out if flagged(item)]
    assert all(item["degenerate"] for item in found)
    assert (len(found), len(degenerate)) == (12, 15)  # the other three end in words of their own


@pytest.mark.parametrize("item", answers(held_out=False), ids=lambda item: item["text"][:40])
def test_real_answers_that_the_rules_were_written_with(item: dict[str, Any]) -> None:
    assert flagged(item) is item["degenerate"]


@pytest.mark.parametrize("text", GOOD)
def test_descriptions_that_name_something_pass_under_every_prompt(text: str) -> None:
    if text != "!":  # no word: a description must name the mark
        assert {why_degenerate(text, prompt) for prompt in [[], *PROMPTS]} == {""}


def test_extractive_descriptions_pass() -> None:
    items = [(TokenRole.ACTIVATING, word) for word in ("until", "till", "bis", "hasta", "token", "the", "of", "直到")]
    items += [(TokenRole.SUPPRESSED, word) for word in ("cat", "cats", "catfish")]
    assert why_degenerate(SignedTokens.of(items).text, PROMPTS[0]) == ""


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("...", "no words"),
        ("A: A: A: A: A: A: A: A: A:", "repeats itself"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "repeats itself"),
        ("。、。、。、。、。、。、。、。、。、。、語。、。、。、。、", "repeats itself"),
        ("the cat and the dog and the cat and the dog and the cat", "repeats itself"),
        ("Description", "names only the task"),
        ("The neuron responds to the token:", "names only the task"),
        ("descrpt", "names only the task"),
        ("She plays tennis every Tuesday with two people", "repeats the prompt"),
    ],
)
def test_each_rule(text: str, rule: str) -> None:
    shown = "<excerpt>She plays tennis every «Tuesday» with two people from her office.</excerpt>"
    in_tab = "She\t0\n plays\t0\n tennis\t0\n every\t0\n Tuesday\t10\n with\t0\n two\t0\n people\t0\n"
    for prompt in (shown, f"<excerpt>\n{in_tab}</excerpt>"):
        assert why_degenerate(text, [SYSTEM, Message("user", prompt)]) == rule


def test_tokens_of_a_list_are_no_copy_of_the_prompt() -> None:
    words = ["until", "till", "before", "after", "while", "during", "since"]
    tokens = "\n".join(f"<token> {word}</token>" for word in words)
    assert why_degenerate(", ".join(words), [SYSTEM, Message("user", f"Tokens:\n{tokens}")]) == ""


def test_one_text_for_most_neurons() -> None:
    same, other = ["Common words."] * 6, [f"topic {number}" for number in range(5)]
    assert same_for_most([*same, *other]) == "common words"
    assert same_for_most([*same[:5], "common, words", *other]) == "common words"
    assert same_for_most([*same[:5], *other]) == ""  # half of ten are not most
    assert same_for_most(same) == ""  # too few neurons to tell
    assert len(same) < MIN_NEURONS


def test_a_degenerate_answer_has_a_status_of_its_own_and_keeps_its_text() -> None:
    client = ScriptedClient(['{"description": "the neuron responds to tokens"}'])
    with pytest.raises(Unanswered, match="names only the task: 'the neuron responds to tokens'") as error:
        asyncio.run(ask_description(client, PROMPTS[0], Explanation))
    assert error.value.status is Status.DEGENERATE
