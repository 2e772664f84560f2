"""Finds the tokens of a tokenizer that are no text, or that it never produces."""

from __future__ import annotations

import copy
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

#: Names of reserved tokens: [unused12], <unused12>, <|reserved_special_token_12|>, <start_of_image>, [multimodal].
_PLACEHOLDER = re.compile(
    r"^[\[<|]+((start|end)_of_)?(unused|reserved|extra_id|pad|mask|image|audio|video|multimodal)[\w\-| ]*[\]>|]+$",
    re.IGNORECASE,
)
# Bytes that never occur in UTF-8: C0, C1 and F5 to FF. Byte-level tokenizers write them as the characters with these
# codes, SentencePiece as <0xF5>.
_NO_UTF8 = re.compile("[\xc0\xc1\xf5-\xff]")
_NO_UTF8_FALLBACK = re.compile(r"<0x(C0|C1|F[5-9A-F])>", re.IGNORECASE)
_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"

SPECIAL, KEPT_FREE, BEYOND, NO_UTF8, UNREACHABLE = (
    "special",
    "kept free",
    "beyond the tokenizer",
    "no UTF-8",
    "unreachable",
)


def is_placeholder(token: str) -> bool:
    """Return whether a vocabulary entry is a reserved token (``[unused12]``)."""
    return _PLACEHOLDER.match(token) is not None


def groups_without_text(tokenizer: PreTrainedTokenizerBase, size: int) -> dict[str, frozenset[int]]:
    """Return the tokens that are no text, each in the first group that fits.

    Args:
        tokenizer: the model's tokenizer.
        size: number of rows of the model's (un)embedding.

    Returns:
        ``special``: special tokens. ``kept free``: reserved tokens. ``beyond the tokenizer``: rows without a token.
        ``no UTF-8``: tokens with a byte that never occurs in UTF-8. ``unreachable``: tokens that the tokenizer does not
        produce from their own text.
    """
    known = min(size, len(tokenizer))
    names = tokenizer.convert_ids_to_tokens(list(range(known)))
    # Most special tokens of some models (<|eot_id|> of Llama 3) have no role and are only marked as added tokens.
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    named = [name for name in tokenizer.special_tokens_map.values() if isinstance(name, str)]
    roles = {token for token in map(tokenizer.convert_tokens_to_ids, named) if isinstance(token, int)}
    # [PAD] and [MASK] look like reserved tokens but have a role.
    free = {token for token, name in enumerate(names) if name is None or is_placeholder(name)} - roles
    special = {token for token in special | roles if token < size} - free
    texts = {
        token: name
        for token, name in enumerate(names)
        if name is not None and token not in special and token not in free
    }
    codec = _Codec(tokenizer)
    decoded = dict(zip(texts, codec.decode(texts), strict=True))
    outside = {
        token
        for token, name in texts.items()
        if _NO_UTF8_FALLBACK.fullmatch(name) or (_NO_UTF8.search(name) and _UNDECODABLE in decoded[token])
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    prefix = getattr(getattr(backend, "model", None), "continuing_subword_prefix", None) or None
    testable = {token: name for token, name in texts.items() if token not in outside}
    return {
        SPECIAL: frozenset(special),
        KEPT_FREE: frozenset(free),
        BEYOND: frozenset(range(known, size)) - special,
        NO_UTF8: frozenset(outside),
        UNREACHABLE: _unreachable(codec, prefix, testable, decoded),
    }


def _unreachable(
    codec: _Codec, prefix: str | None, names: Mapping[int, str], decoded: Mapping[int, str]
) -> frozenset[int]:
    """Return the tokens that the tokenizer does not produce from their own text.

    Source: Land & Bartolo 2024, arXiv:2405.05417. Each text is encoded alone and, if that fails, after and before other
    characters: pieces that continue a word (``##ing``, and SentencePiece's without ``▁``) need a preceding one. A piece
    that a greedy, merging or Viterbi tokenizer uses in a longer text is also used alone in the same context, so few
    contexts are enough. Tokens that are parts of a UTF-8 sequence have no text of their own and are skipped, as in the
    paper.

    Args:
        codec: codec of the tokenizer.
        prefix: prefix of pieces that continue a word (``##``), None if the tokenizer has none.
        names: vocabulary entry of each token to test.
        decoded: decoded text of each.
    """
    waiting = {}
    for token, name in names.items():
        if prefix and name.startswith(prefix) and len(name) > len(prefix):
            waiting[token] = name[len(prefix) :]
        elif "▁" in name:
            waiting[token] = name.replace("▁", " ")
        elif _UNDECODABLE not in decoded[token] or _UNDECODABLE in name:
            waiting[token] = decoded[token]
    tested = len(waiting)
    for before, after in _contexts(names, prefix):
        produced = codec.produced(f"{before}{text}{after}" for text in waiting.values())
        waiting = {token: text for token, text in waiting.items() if token not in produced}
    if len(waiting) > tested // 2:
        logger.warning(
            "%d of %d tokens are not encoded as they are decoded: this tokenizer cannot be tested for unreachable "
            "tokens, so none of them is excluded",
            len(waiting),
            tested,
        )
        return frozenset()
    return frozenset(waiting)


def _contexts(names: Mapping[int, str], prefix: str | None) -> Iterator[tuple[str, str]]:
    yield "", ""
    if prefix:
        # WordPiece takes the longest matching piece from the left. After a letter that few pieces begin with, the next
        # piece most likely starts at the text itself.
        starts: dict[str, int] = {}
        for name in names.values():
            starts[name[0]] = starts.get(name[0], 0) + 1
        letters = [name for name in names.values() if len(name) == 1 and name.isalpha()]
        yield from ((letter, "") for letter in sorted(letters, key=lambda letter: (starts[letter], letter))[:4])
    yield from ((before, "") for before in ("a", "1", "\n", "«"))
    yield "", "a"


class _Codec:
    """Encodes and decodes many texts without special tokens, padding or truncation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._bare = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
        if self._bare is not None:  # five times as fast as the wrapper
            self._bare.no_padding()
            self._bare.no_truncation()

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Return the text of each single token."""
        if self._bare is not None:
            return list(self._bare.decode_batch([[token] for token in tokens], skip_special_tokens=False))
        return [str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in tokens]

    def produced(self, texts: Iterable[str]) -> set[int]:
        """Return every token that occurs when the texts are encoded one by one."""
        found: set[int] = set()
        waiting = iter(texts)
        while chunk := list(itertools.islice(waiting, 32_768)):
            if self._bare is not None:
                encoded = self._bare.encode_batch_fast(chunk, add_special_tokens=False)
                found.update(token for text in encoded for token in text.ids)
            else:
                found.update(*self._tokenizer(chunk, add_special_tokens=False).input_ids)
        return found
