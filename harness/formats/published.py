"""What published sets hold, and the values that name a neuron in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.records import Neuron, Sign, Source

_SIGNS = {
    **dict.fromkeys(("", "+", "1", "+1", "pos", "positive"), Sign.POSITIVE),
    **dict.fromkeys(("-", "-1", "neg", "negative"), Sign.NEGATIVE),
}


@dataclass(frozen=True)
class Published:
    """One description of a published set.

    Attributes:
        neuron: the neuron, or the latent with this layer and index.
        text: the description; empty if the set has none.
        author: who or what made it, such as a method and a model; empty if the set does not say.
        source: name of the dictionary that a latent belongs to, such as ``res-jb``; empty for an MLP neuron.
        score: the score that the set gives it, in the set's own metric; None if there is none.
        fields: the values of its row by column.
    """

    neuron: Neuron
    text: str
    author: str = ""
    source: str = ""
    score: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedWindow:
    """One window of text of a published set.

    Attributes:
        neuron: the neuron, or the latent with this layer and index.
        kind: how the set chose it.
        tokens: its tokens, special tokens included if the set has them.
        activations: one value per token.
        source: as in :class:`Published`.
        fields: the values of its row by column.
    """

    neuron: Neuron
    kind: Source
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    source: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.activations):
            raise ValueError(f"a window has {len(self.tokens)} tokens and {len(self.activations)} activations")


class MissingColumn(ValueError):
    """A row does not have the column that its format needs."""


def value(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column; raises :class:`MissingColumn`, which names the columns found."""
    if column not in row:
        raise MissingColumn(f"no column {column!r}; there are {', '.join(map(str, row))}")
    return row[column]


def neuron(layer: object, index: object, expert: object = None, sign: object = None) -> Neuron:
    """Return the neuron that the values of a row name; raises ValueError."""
    polarity = _plain(sign).lower().removesuffix(".0")
    if polarity not in _SIGNS:
        raise ValueError(f"{polarity[:40]!r} is not a sign; use positive or negative")
    number = _number("expert", _plain(expert)) if _plain(expert) else None
    return Neuron(_number("layer", _plain(layer)), _number("index", _plain(index)), number, _SIGNS[polarity])


def text(found: object, column: str) -> str:
    """Return a description, empty for null; raises ValueError if it is not text."""
    if not isinstance(found, str | None):
        raise ValueError(f"the description ({column!r}) is not text, but {repr(found)[:40]}")
    return found if found and found.strip() else ""


def score(found: object) -> float | None:
    """Return a score, or None if there is none or it is not a finite number."""
    try:
        number = float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def numbers(found: object) -> tuple[float, ...]:
    """Return a list of numbers; raises ValueError if it is not one."""
    if not isinstance(found, list):
        raise ValueError(f"the activations are not a list, but {repr(found)[:40]}")
    return tuple(map(float, found))


def strings(found: object) -> tuple[str, ...]:
    """Return a list of texts; raises ValueError if it is not one."""
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"the tokens are not a list of texts, but {repr(found)[:40]}")
    return tuple(found)


def _plain(found: object) -> str:
    return "" if found is None else str(found).strip()


def _number(what: str, given: str) -> int:
    """Return a whole number from "17" or "17.0" (columns with missing values are often floats)."""
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if number < 0 or not number.is_integer():
        raise ValueError(f"{given[:40]!r} is not a valid {what}")
    return int(number)
