"""Converts documents to tokens, and marks which tokens count as evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from harness.errors import HarnessError
from harness.evidence.corpus import Document, Message
from harness.subject.token_texts import TokenTexts

#: Role of a token: context that never counts as evidence, text, or the first token of a later message's text.
CONTEXT, TEXT, TURN = 0, 1, 2

# Placeholder of a message's content in the template's output. The template strips contents if the tabs are missing.
_MARK = re.compile("(\t\t)?\ue000(\\d+)\ue001(\t\t)?")


@dataclass(frozen=True)
class Encoded:
    """The tokens of a document (n,), and their roles (n,): ``CONTEXT``, ``TEXT`` or ``TURN``."""

    tokens: NDArray[np.int64]
    marks: NDArray[np.uint8]


@dataclass(frozen=True)
class _Part:
    """A part of a formatted conversation; ``message`` is the number of the message whose content it is, else -1."""

    text: str
    message: int = -1


class Encoder:
    """Tokenizes documents.

    Args:
        tokenizer: the subject's tokenizer.
        template: chat template of conversations; None for the tokenizer's own.

    Attributes:
        texts: the text of the tokenizer's tokens.
        prefix: special tokens that the tokenizer adds before a text.
        suffix: special tokens that it adds after a text.
        refused: number of conversations for which the template raised an error.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self._tokenizer, self._template, self.texts = tokenizer, template, TokenTexts(tokenizer)
        self.prefix, self.suffix = special_affixes(tokenizer)
        self.refused = 0
        self._refusal = ""
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = frozenset(token for token, one in added.items() if one.special)

    def encode(self, documents: Sequence[Document]) -> list[Encoded]:
        """Return the tokens of each document; 0 tokens for a conversation that the template refuses.

        Raises:
            HarnessError: if there are conversations but no chat template.
        """
        found = iter(self._text([document.text for document in documents if not document.messages]))
        return [
            self._conversation(document.messages) if document.messages else _all_text(next(found))
            for document in documents
        ]

    def _text(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # Special tokens spelled out in a text ("</s>") are tokenized as ordinary text.
        encoded = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: list[list[int]] = encoded.input_ids
        return ids

    def _conversation(self, messages: tuple[Message, ...]) -> Encoded:
        """Tokenize a formatted conversation in one piece; special tokens are recognised in the template only."""
        parts = self._formatted(messages)
        if parts is None:
            return _all_text([])
        text, spans = _joined(parts)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, owners = encoded.input_ids, _owners(encoded.offset_mapping, spans)
        if any(token in self._special and owner >= 0 for token, owner in zip(ids, owners, strict=True)):
            ids, owners = self._spelled_out(parts)
        marks, previous = [CONTEXT] * len(ids), -1
        for place, owner in enumerate(owners):
            if owner >= 0 and ids[place] not in self._special:
                marks[place] = TEXT if previous in (-1, owner) else TURN
                previous = owner
        # Removed here, because the tokenizer's prefix is added to every window later.
        start = len(self.prefix) if ids[: len(self.prefix)] == self.prefix else 0
        return Encoded(np.array(ids[start:], np.int64), np.array(marks[start:], np.uint8))

    def _spelled_out(self, parts: Sequence[_Part]) -> tuple[list[int], list[int]]:
        """Tokenize a conversation in which a message spells out special tokens, which stay text there.

        Returns:
            The tokens, and the number of the message that each belongs to (-1: to the template).
        """
        tokenizer, stand_ins = self._stand_ins
        spelled = re.compile("|".join(re.escape(name) for name in sorted(stand_ins, key=len, reverse=True)))
        replaced = [
            part if part.message >= 0 else replace(part, text=spelled.sub(lambda found: stand_ins[found[0]], part.text))
            for part in parts
        ]
        text, spans = _joined(replaced)
        encoded = tokenizer.encode(text, add_special_tokens=False)
        id_of: Any = tokenizer.token_to_id  # None only for unknown tokens
        meant = {id_of(stand_in): id_of(name) for name, stand_in in stand_ins.items()}
        return [meant.get(token, token) for token in encoded.ids], _owners(encoded.offsets, spans)

    @cached_property
    def _stand_ins(self) -> tuple[Tokenizer, dict[str, str]]:
        """A copy of the tokenizer for which special tokens are text, and other names for its special tokens."""
        copy = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        copy.encode_special_tokens = True
        stand_ins = {}
        for number, (token, added) in enumerate(self._tokenizer.added_tokens_decoder.items()):
            if token in self._special:
                stand_ins[added.content] = f"\U000f0000{number}\U000f0001"
                settings = {name: getattr(added, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
                copy.add_tokens([AddedToken(stand_ins[added.content], special=False, **settings)])
        return copy, stand_ins

    def _formatted(self, messages: tuple[Message, ...]) -> list[_Part] | None:
        """Return the parts of the formatted conversation, or None if the template refuses or rewrites it."""
        skeleton = self._skeleton(messages)
        if skeleton is None:
            return None
        parts, end = [], 0
        for found in _MARK.finditer(skeleton):
            parts.append(_Part(skeleton[end : found.start()]))
            content = messages[int(found[2])].content
            content = content if found[1] else content.lstrip()
            parts.append(_Part(content if found[3] else content.rstrip(), int(found[2])))
            end = found.end()
        parts.append(_Part(skeleton[end:]))
        written = self._apply([{"role": message.role, "content": message.content} for message in messages])
        if written is None or written == "".join(part.text for part in parts):
            return None if written is None else parts
        # The template changes some contents: Qwen 3 leaves out what is before </think>.
        pattern = "".join("(.*?)" if part.message >= 0 else re.escape(part.text) for part in parts)
        changed = re.fullmatch(pattern, written, re.DOTALL)
        if changed is None:
            self._refuse("it rewrites messages, so that their text cannot be found in what it writes")
            return None
        contents = iter(changed.groups())
        return [part if part.message < 0 else replace(part, text=next(contents)) for part in parts]

    def _skeleton(self, messages: tuple[Message, ...]) -> str | None:
        """Return the formatted conversation with a mark instead of each content, or None if the template refuses."""
        if self._template is None and not getattr(self._tokenizer, "chat_template", None):
            raise HarnessError(
                "the corpus contains conversations, but the subject's tokenizer has no chat template: "
                "set corpus.template"
            )
        if not self._tokenizer.is_fast:
            raise HarnessError(
                "the corpus contains conversations, but the subject's tokenizer does not say which text a token is of: "
                "use a model with a tokenizer.json"
            )
        marks = [f"\t\t\ue000{number}\ue001\t\t" for number in range(len(messages))]
        return self._apply([{"role": one.role, "content": mark} for one, mark in zip(messages, marks, strict=True)])

    def _apply(self, messages: list[dict[str, str]]) -> str | None:
        try:
            written = self._tokenizer.apply_chat_template(messages, tokenize=False, chat_template=self._template)
        except TemplateError as error:  # for example: no system messages, roles must alternate
            self._refuse(" ".join(str(error).split()))
            return None
        return str(written)

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self._refusal = reason

    def check(self, kept: int) -> None:
        """Check that the template has not refused all conversations.

        Args:
            kept: number of documents of which windows were kept.

        Raises:
            HarnessError: with the template's message.
        """
        if self.refused and not kept:
            raise HarnessError(
                f"the chat template refuses every conversation of the corpus ({self._refusal}): "
                "set another corpus.template"
            )


def _joined(parts: Sequence[_Part]) -> tuple[str, list[tuple[int, int, int]]]:
    """Return the text of all parts, and the start, end and message of each content in it."""
    ends = np.cumsum([len(part.text) for part in parts]).tolist()
    spans = [(end - len(part.text), end, part.message) for part, end in zip(parts, ends, strict=True)]
    return "".join(part.text for part in parts), [span for span in spans if span[2] >= 0 and span[0] < span[1]]


def _owners(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, int]]) -> list[int]:
    """Return the message that each token has a character of, -1 for tokens of the template alone."""
    owners, place = [], 0
    for start, end in offsets:
        while place < len(spans) and spans[place][1] <= start:
            place += 1
        inside = place < len(spans) and spans[place][0] < max(end, start + 1)
        owners.append(spans[place][2] if inside else -1)
    return owners


def _all_text(tokens: Sequence[int]) -> Encoded:
    return Encoded(np.array(tokens, np.int64), np.full(len(tokens), TEXT, np.uint8))


def special_affixes(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer adds before and after a text."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a", add_special_tokens=True).input_ids
    start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
    return list(full[:start]), list(full[start + len(bare) :])


def framed(texts: Sequence[Sequence[int]], prefix: list[int], suffix: list[int], pad: int) -> tuple[Tensor, Tensor]:
    """Return texts as token ids (B, T), with the special tokens around each, and the attention mask (B, T)."""
    rows = [torch.tensor([*prefix, *tokens, *suffix]) for tokens in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=pad)
    return ids, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
