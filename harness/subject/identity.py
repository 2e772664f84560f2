"""Identity of a subject's weights and tokenizer: what decides whether stored results can be used again."""

from __future__ import annotations

import json

from harness.subject.files import content_hash
from harness.subject.subject import Subject


def weights_of(subject: Subject) -> list[str]:
    """Return the SHA-256 of each file of the checkpoint and of the dictionaries, in hexadecimal."""
    dictionaries = subject.weights.dictionaries.values()
    paths = [*subject.checkpoint.paths, *(path for dictionary in dictionaries for path in dictionary.paths)]
    return [content_hash(path) for path in paths]


def vocabulary_of(subject: Subject) -> str:
    """Return the tokenizer as text: its full state if it is a fast one, else its vocabulary."""
    backend = getattr(subject.tokenizer, "backend_tokenizer", None)
    return json.dumps(sorted(subject.tokenizer.get_vocab().items())) if backend is None else backend.to_str()
