"""Foreign text made fit to be shown: nothing invisible, nothing that reorders its surroundings, nothing endless."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from harness.text import characters

# Control, zero-width, bidirectional and tag characters, line separators, lone surrogates and non-characters. Line feed
# and tab are text; the two joiners (200C, 200D) belong to Indic and Persian spelling and to emoji.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return the text with every character that cannot be seen replaced by a picture or its code (as in Python).

    What remains can be encoded as UTF-8 and is free of characters that HTML forbids. Line feeds and tabs stay.
    """
    return _UNSEEN.sub(_name, text.replace("\r\n", "\n"))


def _name(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of the control characters: ␀ ␁ ␂ ...
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown_token(token: str, limit: int = 40) -> str:
    """Return one token on one line: line feeds and tabs as symbols, a lone space made visible, cut at ``limit``."""
    shown = characters(token)
    cut = token if len(shown) <= limit else "".join(shown[: limit - 1]) + "…"
    text = visible(cut).replace("\n", "⏎").replace("\t", "⇥")
    return "␣" * len(text) if text.strip(" ") == "" else text


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share between 0 and 1 as a percentage without its sign, or a dash if it is None."""
    return number(None if share is None else 100 * share, digits)


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Return a number with a true minus sign, and a plus sign if asked, or a dash if it is None."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def significant(value: float | None) -> str:
    """Return a number with three significant digits, or a dash if it is None."""
    return "–" if value is None else f"{float(f'{value:.3g}'):,g}".replace("-", "−")


def count(value: int | None) -> str:
    """Return a count with thousands separated, or a dash if it is None."""
    return "–" if value is None else f"{value:,}"


def interval(bounds: tuple[Any, Any] | None, form: Callable[[Any], str] = number, missing: str = "–") -> str:
    """Return the bounds of an interval as text, each in the form of its metric, or ``missing`` if it is None."""
    return missing if bounds is None else f"{form(bounds[0])} to {form(bounds[1])}"


def rank(value: int | None) -> str:
    """Return a rank, or a dash if it is None."""
    return "–" if value is None else str(value)


def yes_no(value: bool | None) -> str:
    """Return yes or no, or a dash if it is None."""
    return "–" if value is None else "yes" if value else "no"


def p_value(value: float) -> str:
    """Return a p-value with three digits, or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def listing(names: list[str]) -> str:
    """Return names as English lists them: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"


def plural(count: int, noun: str) -> str:
    """Return the count with its noun: ``1 neuron``, ``2,048 neurons``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
