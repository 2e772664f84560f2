"""What explainers are asked to answer with, and the forms a description can take."""

from __future__ import annotations

import enum

from pydantic import BaseModel, Field

from harness.llm.client import Unanswered
from harness.records import Status


class Form(enum.StrEnum):
    """How a description is made."""

    AUTO = "auto"  # with the explainer, if the run has one; extractive otherwise
    LLM = "llm"  # with the explainer; the run does not start without one
    EXTRACTIVE = "extractive"  # the evidence's own tokens, without an LLM


class Explanation(BaseModel):
    """An explainer's answer."""

    description: str = Field(description="the description, without quotation marks or preamble", max_length=600)


class Gist(BaseModel):
    """An explainer's answer about one channel: short, for many of them have to fit into one merge prompt."""

    description: str = Field(description="the description, without quotation marks or preamble", max_length=160)


def extract(tokens: list[str], count: int) -> str:
    """Return the extractive description: the first ``count`` distinct tokens, spaces and word-piece marks stripped.

    Raises:
        Unanswered: if there is no token to show.
    """
    words = dict.fromkeys(word for token in tokens if (word := token.strip().removeprefix("##").strip().lower()))
    if not words:
        raise Unanswered(Status.FAILED, "no token to describe the neuron with")
    return ", ".join(list(words)[:count])
