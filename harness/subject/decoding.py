"""Options of interventions: how an activation is changed, and how a text is continued."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Mode(enum.StrEnum):
    """How an activation is changed."""

    CLAMP = "clamp"  # set to the value
    ADD = "add"  # the value is added


@dataclass(frozen=True)
class Decoding:
    """How a text is continued.

    Attributes:
        tokens: most new tokens; fewer if the model ends the text.
        temperature: sampling temperature; 0 is greedy.
        top_p: nucleus sampling: only the likeliest tokens with this total probability are sampled.
    """

    tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
