"""Recognise descriptions that say nothing: the answers of an explainer that cannot do its task.

A weak model that must answer in JSON always gives an object that fits the schema. Its text may still be "description",
"A: A: A: A:" or the prompt's own instructions. Such an answer gets the status ``degenerate`` and counts as a failure.

The rules, in the order in which they apply; words are runs of letters and digits, and case does not count:

``no words``           the text has no word.
``names only itself``  every word is one of :data:`TASK_WORDS` or :data:`FUNCTION_WORDS`, and at least one is a task
                       word: "description", "the neuron responds to the tokens".
``repeats itself``     of at least eight words, fewer than 40 % are different; or of at least 40 characters, a piece of
                       at most ten characters that is repeated without a break makes up more than half.
``repeats the prompt`` more than half of the words belong to runs of at least six words that the prompt contains in the
                       same order. The tokens of a list are no such run, because marks separate them.

``the same for most``  is a rule about all descriptions of one describer: see :func:`same_for_most`.

The rules say nothing about whether a text is right, and they let every text pass that names a word, a topic or a form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pydantic

from harness.llm.asking import SHOWN, ask
from harness.llm.client import LLMClient, Message, Unanswered
from harness.records import Status

#: Words that only name the task.
TASK_WORDS = frozenset(re.findall(r"\w+", """
    activate activated activates activation activations active answer describe described describes description
    descriptions evidence excerpt excerpts explain explanation json language marked model neuron neurons output respond
    responds response string text texts token tokens
"""))  # fmt: skip
FUNCTION_WORDS = frozenset(re.findall(r"\w+", """
    a an and are as at be by for from has in is it its most of on or that the these this to what which with
"""))  # fmt: skip
_MIN_WORDS, _DIFFERENT = 8, 0.4
_LOOP = re.compile(r"(.{1,10}?)\1{3,}", re.DOTALL)
_MIN_CHARACTERS, _LOOPED = 40, 0.5
_RUN, _COPIED = 6, 0.5
#: The rule about all descriptions of a describer: the share that has the same text, and the neurons that it needs.
_SAME, MIN_NEURONS = 0.5, 10
_WORD = re.compile(r"\w+")
AnswerT = TypeVar("AnswerT", bound=pydantic.BaseModel)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.casefold())


def why_degenerate(text: str, prompt: Sequence[Message] = ()) -> str:
    """Return the rule that a description breaks, or an empty text.

    Args:
        text: the description.
        prompt: the conversation that asked for it.
    """
    words = words_of(text)
    if not words:
        return "no words"
    if set(words) <= TASK_WORDS | FUNCTION_WORDS and set(words) & TASK_WORDS:
        return "names only itself"
    if len(words) >= _MIN_WORDS and len(set(words)) < _DIFFERENT * len(words):
        return "repeats itself"
    loops = sum(len(found[0]) for found in _LOOP.finditer(text))
    if len(text) >= _MIN_CHARACTERS and loops > _LOOPED * len(text):
        return "repeats itself"
    if _copied(words, prompt) > _COPIED * len(words):
        return "repeats the prompt"
    return ""


def _copied(words: Sequence[str], prompt: Sequence[Message]) -> int:
    """Return how many of the words belong to runs that the prompt contains."""
    asked = [words_of(message.content) for message in prompt]
    runs = {tuple(one[start : start + _RUN]) for one in asked for start in range(len(one) - _RUN + 1)}
    copied = set[int]()
    for start in range(len(words) - _RUN + 1):
        if tuple(words[start : start + _RUN]) in runs:
            copied.update(range(start, start + _RUN))
    return len(copied)


def same_for_most(texts: Iterable[str]) -> str:
    """Return the words of the text that more than half of a describer's descriptions share, or an empty text.

    Always empty with fewer than ``MIN_NEURONS`` descriptions: a few neurons may really do the same.
    """
    counts = Counter(" ".join(words_of(text)) for text in texts)
    if counts.total() < MIN_NEURONS:
        return ""
    ((text, count),) = counts.most_common(1)
    return text if count > _SAME * counts.total() else ""


async def ask_description(client: LLMClient, messages: Sequence[Message], answer: type[AnswerT]) -> str:
    """Return the ``description`` of an LLM's answer.

    Args:
        client: the LLM.
        messages: the conversation.
        answer: the answer's type, with a text ``description``.

    Raises:
        Unanswered: as :func:`harness.llm.asking.ask` does, and with status degenerate if the description says nothing.
    """
    text = str(getattr(await ask(client, messages, answer), "description"))  # noqa: B009
    if rule := why_degenerate(text, messages):
        raise Unanswered(Status.DEGENERATE, f"{rule}: {' '.join(text.split())[:SHOWN]!r}")
    return text
