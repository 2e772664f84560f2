"""The tokens that a description names, with their signs: what judges without an LLM know of it."""

from __future__ import annotations

import re

from harness.records import TOKEN_LABELS, SignedTokens, TokenRole
from harness.stop_words import stop_words
from harness.text import plain, words

_ROLES = {label: role for role, label in TOKEN_LABELS.items()}
_CLAUSE = re.compile(rf"(?:^|(?<=[;|]))\s*({'|'.join(TOKEN_LABELS.values())})\s", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“«`]([^\"”»`]+)[\"”»`]|(?<!\w)['‘]([^'’]+)['’](?!\w)")
_APOSTROPHE = re.compile("['’]")


def read_tokens(text: str, tokens: SignedTokens | None = None) -> SignedTokens:
    """Return the tokens of a description, each once per role.

    Args:
        text: the description.
        tokens: its tokens, if it is extractive; they are returned unchanged.

    Returns:
        Without ``tokens``, the words of the text in lower case (UAX #29: of scripts without spaces, the characters).
        All of them count as activating, except in clauses that begin with a label of
        :data:`harness.records.TOKEN_LABELS`. Stop words (scikit-learn's English list) are left out, unless they are in
        quotation marks or alone between commas: "the word 'the'" names a token, and "words after the comma" does not.
    """
    if tokens is not None:
        return tokens
    start, *labelled = _CLAUSE.split(text)
    clauses = [(TokenRole.ACTIVATING, start)]
    for label, rest in zip(labelled[::2], labelled[1::2], strict=True):
        clauses.append((_ROLES[label.lower()], rest))
    return SignedTokens.of(dict.fromkeys((role, word) for role, clause in clauses for word in _words(clause)))


def _words(clause: str) -> list[str]:
    quoted = {word for found in _QUOTED.findall(clause) for part in found for word in _split(part)}
    kept = []
    for item in re.split("[,;|]", clause):
        found = _split(item)
        kept += [word for word in found if len(found) == 1 or word in quoted or word not in stop_words()]
    return kept


def _split(text: str) -> list[str]:
    """Return the words of a text; "it's" and "l'eau" are two words each."""
    return [plain(part) for word in words(text) for part in _APOSTROPHE.split(word) if part]
