"""What explainers are asked to answer with, and the forms a description can take."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pydantic
from pydantic import BaseModel, Field

from harness.checks import require_count
from harness.llm.client import Unanswered
from harness.methods import Describer
from harness.records import Status

AnswerT = TypeVar("AnswerT", bound=BaseModel)
_DESCRIPTION = "the description, without quotation marks or preamble"


class Mode(enum.StrEnum):
    """How a description is made."""

    AUTO = "auto"  # with the explainer, if the run has one; extractive otherwise
    LLM = "llm"  # with the explainer; the run does not start without one
    EXTRACTIVE = "extractive"  # the evidence's own tokens, without an LLM


class Explanation(BaseModel):
    """An explainer's answer, with room for 30 words."""

    description: str = Field(description=_DESCRIPTION, max_length=600)


class Gist(BaseModel):
    """An explainer's answer about one channel, with room for 15 words: many of them must fit into one merge prompt."""

    description: str = Field(description=_DESCRIPTION, max_length=160)


@functools.cache
def explanation(words: int) -> type[Explanation]:
    """Return the answer that has room for a description of ``words`` words."""
    return _roomier(Explanation, 20 * words) if words > 30 else Explanation


@functools.cache
def gist(words: int) -> type[Gist]:
    """Return the answer that has room for a channel's description of ``words`` words."""
    return _roomier(Gist, 12 * words) if words > 15 else Gist


def _roomier(kind: type[AnswerT], characters: int) -> type[AnswerT]:
    longer = Field(description=_DESCRIPTION, max_length=characters)
    return pydantic.create_model(kind.__name__, __base__=kind, description=(str, longer))


class ExplainerDescriber(Describer):
    """A describer that shows evidence to the explainer, or without one names the evidence's own tokens.

    Args:
        target_words: length asked of the description; in the extractive form, the number of tokens.
        mode: ``auto``, ``llm`` or ``extractive``.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(self, target_words: int, mode: str) -> None:
        require_count("target_words", target_words, 1)
        self.target_words = target_words
        self.role = None if Mode(mode) is Mode.EXTRACTIVE else "explainer"
        self.llm_required = Mode(mode) is Mode.LLM


def extract(tokens: Iterable[str], count: int) -> str:
    """Return the extractive description: the first ``count`` distinct tokens, spaces and word-piece marks stripped.

    Raises:
        Unanswered: if there is no token to show.
    """
    words = dict.fromkeys(word for token in tokens if (word := token.strip().removeprefix("##").strip().lower()))
    if not words:
        raise Unanswered(Status.FAILED, "no token to describe the neuron with")
    return ", ".join(list(words)[:count])


def joined(texts: Sequence[str]) -> str:
    """Return several descriptions as one, each said once."""
    return "; ".join(dict.fromkeys(text.strip().rstrip(".;") for text in texts if text.strip()))
