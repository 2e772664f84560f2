"""Identity of a subject's weights and tokenizer: what decides whether stored results can be used again."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from harness.subject.files import sha256
from harness.subject.subject import Subject


def weights_of(subject: Subject) -> list[str]:
    """Return the SHA-256 of each file of the checkpoint, in hexadecimal."""
    return [_sha256(path, path.stat().st_mtime_ns) for path in subject.checkpoint.paths]


def vocabulary_of(subject: Subject) -> str:
    """Return the tokenizer as text: its full state if it is a fast one, else its vocabulary."""
    backend = getattr(subject.tokenizer, "backend_tokenizer", None)
    return json.dumps(sorted(subject.tokenizer.get_vocab().items())) if backend is None else backend.to_str()


@lru_cache(maxsize=256)
def _sha256(path: Path, modified_ns: int) -> str:
    resolved = path.resolve()
    # The hub's cache names its files by their SHA-256.
    return resolved.name if resolved.parent.name == "blobs" and len(resolved.name) == 64 else sha256(path)
