"""The text of a tokenizer's tokens, alone and one after the other."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.text import characters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How byte-level vocabularies spell bytes (GPT-2's table), and how SentencePiece names a byte that has no piece.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + index): byte for index, byte in enumerate(_HIDDEN)}
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
#: Shorter fragments occur in too many words.
_LETTERS = 4
#: Tokens read on either side of a position to see whether it is inside a character; a family emoji takes up to 25.
_NEAR = 32


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of text and the positions of its tokens, from ``start`` to ``stop`` (exclusive)."""

    start: int
    stop: int
    text: str


class TokenTexts:
    """Converts tokens to text.

    Args:
        tokenizer: the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @lru_cache(maxsize=1 << 16)  # noqa: B019
    def text(self, token: int) -> str:
        """Return a vocabulary entry as readable text: word pieces keep their ``##``, spaces are spaces.

        Bytes that are only a part of a character are written as in ``<0xE3><0x81>``.
        """
        if token >= self._size:
            return f"<{token}>"
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if self._word_pieces or token in self._special:
            return piece
        data = self._encoded(token, piece)
        if data is not None:
            return "".join(_readable(data))
        if "▁" in piece:  # SentencePiece's space, which decoding a single piece would drop
            return piece.replace("▁", " ")
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def pieces(self, tokens: Sequence[int]) -> list[Piece]:
        """Return consecutive tokens as pieces of text that a reader can see; joined, they are the original text.

        A piece is the text of one token, or of several that share a character (:mod:`harness.text`): the bytes of a
        letter, a letter and its accents, the parts of an emoji. A token that ends one character and begins another
        belongs to two pieces. A character that begins before the tokens, or ends after them, becomes the replacement
        character.
        """
        texts, whole = self._surface(tokens)
        joined = "".join(texts)
        if joined.isascii() and "\r" not in joined and all(texts):
            return [Piece(index, index + 1, text) for index, text in enumerate(texts)]
        begins, ends = _tokens_of(texts, whole)
        found: list[Piece] = []
        position = 0
        for character in characters(joined):
            first, stop = begins[position], ends[position + len(character) - 1] + 1
            position += len(character)
            last = found[-1] if found else Piece(0, 1, "")
            # Pieces that share a token are joined, unless both are longer than that token.
            if found and (first >= last.stop or (stop > last.stop > last.start + 1)):
                found[-1] = dataclasses.replace(last, stop=max(last.stop, first))  # includes tokens without text
                found.append(Piece(first, stop, character))
            else:
                found[-1:] = [Piece(last.start, max(stop, last.stop), last.text + character)]
        if found:
            found[-1] = dataclasses.replace(found[-1], stop=len(texts))
        return found

    def continuation(self, tokens: Sequence[int]) -> str:
        """Return generated tokens as the text that follows the prompt, without special tokens.

        Decoding them alone would drop the space before the first word (SentencePiece), and those before punctuation.
        """
        return "".join(piece.text for piece in self.pieces([token for token in tokens if token not in self._special]))

    def character_around(self, tokens: Sequence[int] | NDArray[np.int64], position: int) -> tuple[int, int]:
        """Return the span of tokens that share the character that a position is inside of, empty if it is between two.

        Args:
            tokens: token ids of a document.
            position: the position of the token after it, neither 0 nor the number of tokens.
        """
        before, after = (self._bytes(int(token)) for token in tokens[position - 1 : position + 1])
        if before.isascii() and after.isascii() and before[-1:] != b"\r":
            return position, position
        start, stop = max(0, position - _NEAR), min(len(tokens), position + _NEAR)
        pieces = self.pieces([int(token) for token in tokens[start:stop]])
        inside = {start + place for piece in pieces for place in range(piece.start + 1, piece.stop)}
        first = next(place for place in range(position, -1, -1) if place not in inside)
        return first, next(place for place in range(position, len(tokens) + 1) if place not in inside)

    def before(self, token: int) -> str:
        """Return what stands before a fragment of a word: ``C`` for ``incinnati``, ``Vod`` for ``afone``.

        A fragment is a token of four or more letters that begins no word of the vocabulary. Its context is the token
        before it when the vocabulary's own words are tokenized as they are, in lower case, capitalised, and without the
        space before them.

        Returns:
            The context without spaces, in the words' own case; empty for other tokens, if no word contains the
            fragment, and if the words disagree. Empty for word pieces, too: no word of their vocabulary is split.
        """
        return self._contexts.get(token, "")

    @cached_property
    def _contexts(self) -> dict[int, str]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or self._word_pieces:
            return {}
        texts = {token: self.text(token) for token in range(self._size) if token not in self._added}
        letters = {token: text for token, text in texts.items() if len(text) >= _LETTERS and text.strip().isalpha()}
        words = {text[1:] for text in letters.values() if text.startswith(" ")}
        begun = {text[1:].lower() for text in texts.values() if text.startswith(" ")}
        fragments = {token for token, text in letters.items() if text.islower() and text.strip() not in begun}
        forms = {form: 3 if form.strip() in words else 1 for word in sorted(words) for form in _forms(word)}
        found: dict[int, Counter[str]] = {}
        for weight, encoded in zip(
            forms.values(), backend.encode_batch_fast([*forms], add_special_tokens=False), strict=True
        ):
            for one, two in itertools.pairwise(encoded.ids):
                if two in fragments:
                    found.setdefault(two, Counter())[self.text(one).strip()] += weight
        return {
            token: contexts.most_common(1)[0][0]
            for token, contexts in found.items()
            if len({context.lower() for context in contexts}) == 1
        }

    def _surface(self, tokens: Sequence[int]) -> tuple[list[str], list[bool]]:
        """Return the text that each token completes, and whether it ends with a whole code point."""
        if self._word_pieces:
            texts = [self.text(token) for token in tokens]
            return [text[2:] if text.startswith("##") else f" {text}" for text in texts], [True] * len(texts)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts, whole, last = [], [], len(tokens) - 1
        for index, token in enumerate(tokens):
            texts.append(decoder.decode(self._bytes(token), index == last))
            whole.append(not decoder.getstate()[0])
        return texts, whole

    @lru_cache(maxsize=1 << 16)  # noqa: B019
    def _bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token, which may start or end inside a character."""
        if token < self._size:
            data = self._encoded(token, str(self._tokenizer.convert_ids_to_tokens(token)))
            if data is not None:
                return data
        return self.text(token).encode("utf-8", "replace")

    def _encoded(self, token: int, piece: str) -> bytes | None:
        """Return the bytes of a token that the vocabulary spells as bytes, None for other tokens."""
        if token in self._added:
            return None
        if self._byte_level and all(letter in _BYTES for letter in piece):
            return bytes(_BYTES[letter] for letter in piece)
        return bytes([int(piece[3:5], 16)]) if _BYTE_PIECE.fullmatch(piece) else None

    @cached_property
    def _byte_level(self) -> bool:
        """Whether the vocabulary encodes bytes as letters (GPT-2)."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))

    @cached_property
    def _size(self) -> int:
        return len(self._tokenizer)  # slow: the tokenizer counts its entries

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids)

    @cached_property
    def _added(self) -> frozenset[int]:
        """Ids of tokens added to the trained vocabulary, which are stored as plain text."""
        return frozenset(getattr(self._tokenizer, "added_tokens_decoder", {}))

    @cached_property
    def _word_pieces(self) -> bool:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return backend is not None and type(backend.model).__name__ == "WordPiece"


def _readable(data: bytes) -> list[str]:
    """Return bytes as text, with ``<0xE3>`` for each byte that is only a part of a character."""
    found: list[str] = []
    rest = data
    while rest:
        try:
            return [*found, rest.decode()]
        except UnicodeDecodeError as error:
            found += [rest[: error.start].decode(), *(f"<0x{byte:02X}>" for byte in rest[error.start : error.end])]
            rest = rest[error.end :]
    return found


def _tokens_of(texts: Sequence[str], whole: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Return the first and the last token of each code point; the arguments are those of ``_surface``."""
    begins, ends, begun = [], [], 0
    for index, text in enumerate(texts):
        for _ in text:
            begins.append(begun)
            ends.append(index)
            begun = index
        if whole[index]:
            begun = index + 1
        elif text:
            begun = index
    return begins, ends


def _forms(word: str) -> tuple[str, ...]:
    """Return a word as written in the middle of a sentence, after a bracket, at its beginning."""
    lower, capital = word.lower(), word.capitalize()
    return word, lower, capital, f" {lower}", f" {capital}"
