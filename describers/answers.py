"""What an explainer answers, and what a description is made of without one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, Field

from harness.llm.client import LLMClient, Unanswered
from harness.llm.degenerate import ask_description
from harness.llm.prompts import Prompt
from harness.methods import Describer, Mode
from harness.records import ScoredToken, Side, SignedTokens, Status, TokenRole
from harness.text import plain

AnswerT = TypeVar("AnswerT", bound=BaseModel)
T = TypeVar("T")
#: Roles of the tokens with high and with low values, of a weight vector or direction on each side of the neuron.
INPUT_ROLES = (TokenRole.ACTIVATING, TokenRole.SILENCING)
OUTPUT_ROLES = (TokenRole.PROMOTED, TokenRole.SUPPRESSED)
_DESCRIPTION = "the description, without quotation marks or preamble"


class Explanation(BaseModel):
    """An explainer's answer, with room for 30 words."""

    description: str = Field(description=_DESCRIPTION, max_length=600)


class Gist(BaseModel):
    """An explainer's answer about one channel, with room for 15 words: many of them must fit into one merge prompt."""

    description: str = Field(description=_DESCRIPTION, max_length=160)


@functools.cache
def explanation(words: int) -> type[Explanation]:
    """Return the schema of an answer with room for a description of ``words`` words."""
    return _longer(Explanation, 20 * words) if words > 30 else Explanation


@functools.cache
def gist(words: int) -> type[Gist]:
    """Return the schema of an answer with room for a channel's description of ``words`` words."""
    return _longer(Gist, 12 * words) if words > 15 else Gist


def _longer(kind: type[AnswerT], characters: int) -> type[AnswerT]:
    longer = Field(description=_DESCRIPTION, max_length=characters)
    return pydantic.create_model(kind.__name__, __base__=kind, description=(str, longer))


class ExplainerDescriber(Describer):
    """A describer that shows evidence to the explainer; without an explainer, it lists the evidence's own tokens.

    Args:
        target_words: requested length of the description, in words; in extractive mode, the number of tokens.
        mode: ``auto`` uses the explainer if the run has one, ``llm`` requires one, ``extractive`` never uses it.
    """

    def __init__(self, target_words: int, mode: Mode) -> None:
        self.target_words = target_words
        self.role = None if mode == "extractive" else "explainer"
        self.llm_required = mode == "llm"

    async def explain(self, llm: LLMClient, prompt: Prompt, **values: Any) -> str:
        """Return the explainer's description; raises as :func:`harness.llm.degenerate.ask_description` does.

        Args:
            llm: the explainer.
            prompt: the prompt.
            values: what the prompt shows, in addition to the requested number of ``words``.
        """
        messages = prompt.render(words=self.target_words, **values)
        return await ask_description(llm, messages, explanation(self.target_words))


def extract(items: Iterable[tuple[TokenRole, str]], count: int) -> SignedTokens:
    """Return the extractive description: the first ``count`` distinct tokens, without spaces and word-piece marks.

    Args:
        items: tokens with their roles, strongest first. Of one side, only the first role of a token counts.
        count: maximum number of tokens, over all roles.

    Raises:
        Unanswered: if there are no tokens.
    """
    return SignedTokens.of(item for item, _ in distinct(((role, token, None) for role, token in items), count))


def distinct(items: Iterable[tuple[TokenRole, str, T]], count: int) -> list[tuple[tuple[TokenRole, str], T]]:
    """Return the tokens of :func:`extract` with their roles, each with what the first item with it has in addition.

    Raises:
        Unanswered: if there are no tokens.
    """
    kept: dict[tuple[Side, str], tuple[tuple[TokenRole, str], T]] = {}
    for role, token, more in items:
        word = plain(token)
        if word and len(kept) < count:
            kept.setdefault((role.side, word), ((role, word), more))
    if not kept:
        raise Unanswered(Status.FAILED, "no token to describe the neuron with")
    return list(kept.values())


def activating(words: Iterable[str]) -> Iterable[tuple[TokenRole, str]]:
    """Return words as tokens that activate the neuron."""
    return ((TokenRole.ACTIVATING, word) for word in words)


def by_strength(
    high: Sequence[ScoredToken], low: Sequence[ScoredToken], roles: tuple[TokenRole, TokenRole]
) -> list[tuple[TokenRole, str]]:
    """Return the tokens of the two ends of a projection with their roles, by the size of their z-scores."""
    ends = [(-abs(token.z), role, token.token) for role, end in zip(roles, (high, low), strict=True) for token in end]
    return [(role, token) for _, role, token in sorted(ends, key=lambda item: item[0])]


def joined(texts: Sequence[str]) -> str:
    """Return several descriptions as one text, without repetitions."""
    return "; ".join(dict.fromkeys(text.strip().rstrip(".;") for text in texts if text.strip()))
