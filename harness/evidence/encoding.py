"""Converts documents to tokens, and marks which tokens count as evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray
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
        self._template_tokens = lru_cache(maxsize=4096)(self._piece)

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

    def _piece(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else ()

    def _conversation(self, messages: tuple[Message, ...]) -> Encoded:
        """Tokenize a conversation piece by piece: special tokens are recognised in the template, never in messages."""
        skeleton = self._skeleton(messages)
        if skeleton is None:
            return _all_text([])
        tokens: list[int] = []
        marks: list[int] = []

        def add(ids: Sequence[int], mark: int) -> None:
            tokens.extend(ids)
            marks.extend([mark] * len(ids))

        has_text, end = False, 0
        for found in _MARK.finditer(skeleton):
            add(self._template_tokens(skeleton[end : found.start()]), CONTEXT)
            content = messages[int(found[2])].content
            content = content if found[1] else content.lstrip()
            content = content if found[3] else content.rstrip()
            ids = self._text([content])[0] if content else []
            if ids:
                add(ids[:1], TURN if has_text else TEXT)
                add(ids[1:], TEXT)
                has_text = True
            end = found.end()
        add(self._template_tokens(skeleton[end:]), CONTEXT)
        # Removed here, because the tokenizer's prefix is added to every window later.
        start = len(self.prefix) if tokens[: len(self.prefix)] == self.prefix else 0
        return Encoded(np.array(tokens[start:], np.int64), np.array(marks[start:], np.uint8))

    def _skeleton(self, messages: tuple[Message, ...]) -> str | None:
        """Return the formatted conversation with a mark instead of each content, or None if the template refuses."""
        if self._template is None and not getattr(self._tokenizer, "chat_template", None):
            raise HarnessError(
                "the corpus contains conversations, but the subject's tokenizer has no chat template: "
                "set corpus.template"
            )
        marked = [
            {"role": message.role, "content": f"\t\t\ue000{index}\ue001\t\t"} for index, message in enumerate(messages)
        ]
        try:
            written = self._tokenizer.apply_chat_template(marked, tokenize=False, chat_template=self._template)
        except TemplateError as error:  # for example: no system messages, roles must alternate
            self.refused += 1
            self._refusal = " ".join(str(error).split())
            return None
        return str(written)

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
