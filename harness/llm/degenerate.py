"""Recognise descriptions that say nothing: the answers of an explainer that cannot do its task.

A weak model that must answer in JSON always gives an object that fits the schema. Its text may still be "description",
"A: A: A: A:" or the prompt's own instructions. Such an answer gets the status ``degenerate`` and counts as a failure.

Rules, in the order in which they apply (words are runs of letters and digits, without case, compared by their stems):

- *no words*: the text has no word.
- *repeats itself*: of at least eight words, more than 30 % of the word triples occurred before; or a piece of at most
  ten characters that is repeated without a break makes up more than half of at least 20 characters.
- *names only the task*: at least one word is a task word (:data:`TASK_WORDS`), and every other one is too, or is a
  function word, a single letter, or a word of the prompt's instructions: "description", "The neuron responds to the
  tokens with high values". A text with quotation marks passes.
- *repeats the prompt*: more than half of the words belong to runs of at least six words of the prompt in the same
  order, from its instructions or from an excerpt. Marks separate the tokens of a list, so a list contains no such run.

*The same for most* is a rule about all descriptions of one describer: see :func:`same_for_most`.

The rules do not ask whether a text is right. They pass every text that names a word, a topic or a form, except topics
that the prompt itself speaks of: a description of the word "token" needs quotation marks. On distinct answers of
SmolLM2 that the rules were not written with, they found 12 of 15 degenerate ones and flagged neither of the two others
(``tests/test_degenerate.py``).
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
from harness.stems import stem

#: Words that name the task or its form instead of an answer; also every word that begins with "descr".
TASK_WORDS = frozenset(re.findall(r"\w+", """
    activate activation active answer concept describe description evidence excerpt explain explanation neuron
    promote respond response string text token vocabulary word
"""))  # fmt: skip
FUNCTION_WORDS = frozenset(re.findall(r"\w+", """
    a an and are as at be by for from has have in is it its most of on or that the their them these they this to what
    which with
"""))  # fmt: skip
_MIN_WORDS, _REPEATED = 8, 0.3
_LOOP = re.compile(r"(.{1,10}?)\1{3,}", re.DOTALL)
_MIN_CHARACTERS, _LOOPED = 20, 0.5
_RUN, _COPIED = 6, 0.5
#: The rule about all descriptions of a describer: the share that has the same text, and the neurons that it needs.
_SAME, MIN_NEURONS = 0.5, 10
_WORD = re.compile(r"[^\W_]+")
_QUOTED = re.compile(r"[\"“«`][^\"”»`]+[\"”»`]|(?<!\w)['‘][^'’]+['’](?!\w)")
#: What a prompt shows, as opposed to its instructions; the activation after a token is no word of the text.
_EVIDENCE = re.compile(r"<(\w+)[^>]*>.*?</\1>", re.DOTALL)
_ACTIVATION = re.compile(r"\t\d+$", re.MULTILINE)
AnswerT = TypeVar("AnswerT", bound=pydantic.BaseModel)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.casefold())


def _stems(text: str) -> list[str]:
    return [stem(word) for word in words_of(text)]


_TASK = frozenset(map(stem, TASK_WORDS))
_FUNCTION = frozenset(map(stem, FUNCTION_WORDS))


def why_degenerate(text: str, prompt: Sequence[Message] = ()) -> str:
    """Return the rule that a description breaks, or an empty text.

    Args:
        text: the description.
        prompt: the conversation that asked for it.
    """
    words = _stems(text)
    if not words:
        return "no words"
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(words) >= _MIN_WORDS and len(triples) - len(set(triples)) > _REPEATED * len(triples):
        return "repeats itself"
    loops = sum(len(found[0]) for found in _LOOP.finditer(text))
    if len(text) >= _MIN_CHARACTERS and loops > _LOOPED * len(text):
        return "repeats itself"
    asked = [_stems(_ACTIVATION.sub("", message.content)) for message in prompt]
    instructions = {word for message in prompt for word in _stems(_EVIDENCE.sub(" ", message.content))}
    task = {word for word in words if word in _TASK or word.startswith("descr")}
    empty = (
        task
        | _FUNCTION
        | instructions
        | {word for word in words if len(word) == 1 and word.isascii() and word.isalpha()}
    )
    if task and not _QUOTED.search(text) and set(words) <= empty:
        return "names only the task"
    if _copied(words, asked) > _COPIED * len(words):
        return "repeats the prompt"
    return ""


def _copied(words: Sequence[str], asked: Iterable[Sequence[str]]) -> int:
    """Return how many of the words belong to runs that a message contains."""
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
    text: str = (await ask(client, messages, answer)).model_dump()["description"]
    return checked(text, messages)


def checked(text: str, prompt: Sequence[Message]) -> str:
    """Return a description; raises ``Unanswered`` with status degenerate if it says nothing."""
    if rule := why_degenerate(text, prompt):
        raise Unanswered(Status.DEGENERATE, f"{rule}: {' '.join(text.split())[:SHOWN]!r}")
    return text
