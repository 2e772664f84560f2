"""From documents to tokens, and which of these count as evidence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from harness.errors import HarnessError
from harness.evidence.corpus import Document, Message

#: What a token is to the evidence: context that never counts, text, or the first token of a further turn's text.
CONTEXT, TEXT, TURN = 0, 1, 2

# Where a message's content stands in the template's output; the tabs tell whether the template strips contents.
_MARK = re.compile("(\t\t)?\ue000(\\d+)\ue001(\t\t)?")


@dataclass(frozen=True)
class Encoded:
    """The tokens of a document (n,), and what each of them is (n,): ``CONTEXT``, ``TEXT`` or ``TURN``."""

    tokens: NDArray[np.int64]
    marks: NDArray[np.uint8]


class Encoder:
    """Turns documents into tokens.

    Args:
        tokenizer: the subject's.
        template: chat template of conversations; none for the tokenizer's own.

    Attributes:
        prefix: special tokens that the tokenizer puts before a text.
        suffix: special tokens that it puts after one.
        refused: conversations that the template would not write out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        self._tokenizer, self._template = tokenizer, template
        self.prefix, self.suffix = special_affixes(tokenizer)
        self.refused = 0
        self._refusal = ""
        self._template_tokens = lru_cache(maxsize=4096)(self._piece)

    def encode(self, documents: Sequence[Document]) -> list[Encoded]:
        """Return the tokens of each document; none (0 of them) of a conversation that the template refuses.

        Raises:
            HarnessError: if there are conversations and no template that writes them out.
        """
        plain = [document.text for document in documents if not document.messages]
        # A text that spells out a special token ("</s>") is text all the same.
        found = iter(self._text(plain))
        return [
            self._conversation(document.messages) if document.messages else _all_text(next(found))
            for document in documents
        ]

    def _text(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: list[list[int]] = encoded.input_ids
        return ids

    def _piece(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else ()

    def _conversation(self, messages: tuple[Message, ...]) -> Encoded:
        """Write a conversation out piece by piece: special tokens are read in the template, never in what is said."""
        skeleton = self._skeleton(messages)
        if skeleton is None:
            return _all_text([])
        tokens: list[int] = []
        marks: list[int] = []

        def add(ids: Sequence[int], mark: int) -> None:
            tokens.extend(ids)
            marks.extend([mark] * len(ids))

        spoken, at = False, 0
        for found in _MARK.finditer(skeleton):
            add(self._template_tokens(skeleton[at : found.start()]), CONTEXT)
            content = messages[int(found[2])].content
            content = content if found[1] else content.lstrip()
            content = content if found[3] else content.rstrip()
            said = self._text([content])[0] if content else []
            if said:
                add(said[:1], TURN if spoken else TEXT)
                add(said[1:], TEXT)
                spoken = True
            at = found.end()
        add(self._template_tokens(skeleton[at:]), CONTEXT)
        # The model's own beginning of a text is put before every window.
        start = len(self.prefix) if tokens[: len(self.prefix)] == self.prefix else 0
        return Encoded(np.array(tokens[start:], np.int64), np.array(marks[start:], np.uint8))

    def _skeleton(self, messages: tuple[Message, ...]) -> str | None:
        """Return the conversation written out with a mark in the place of each content, or none if it is refused."""
        if self._template is None and not getattr(self._tokenizer, "chat_template", None):
            raise HarnessError(
                "the corpus holds conversations, and the subject's tokenizer has no chat template: "
                "give one with corpus.template"
            )
        marked = [
            {"role": message.role, "content": f"\t\t\ue000{place}\ue001\t\t"} for place, message in enumerate(messages)
        ]
        try:
            written = self._tokenizer.apply_chat_template(marked, tokenize=False, chat_template=self._template)
        except TemplateError as error:  # such as: no system messages, roles must alternate
            self.refused += 1
            self._refusal = " ".join(str(error).split())
            return None
        return str(written)

    def check(self, kept: int) -> None:
        """Check that the template has not refused everything.

        Raises:
            HarnessError: with the template's own words.
        """
        if self.refused and not kept:
            raise HarnessError(
                f"the chat template refuses every conversation of the corpus ({self._refusal}): "
                "give another with corpus.template"
            )


def _all_text(tokens: Sequence[int]) -> Encoded:
    return Encoded(np.array(tokens, np.int64), np.full(len(tokens), TEXT, np.uint8))


def special_affixes(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a", add_special_tokens=True).input_ids
    start = next(at for at in range(len(full)) if full[at : at + len(bare)] == bare)
    return list(full[:start]), list(full[start + len(bare) :])
