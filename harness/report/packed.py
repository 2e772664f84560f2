"""Compressed HTML fragments that the page unpacks when a neuron is opened.

A thousand neurons are about 60 MB of repetitive HTML, of which a reader opens a few. The fragments are rendered by the
same templates as the rest of the page, so text from models and corpora in them is already escaped.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections.abc import Iterable

FRAGMENTS_PER_LINE = 8
"""Fragments that are compressed together. More would not be smaller, because deflate looks back only 32 KiB."""


def pack(fragments: Iterable[str]) -> list[str]:
    """Return lines that report.js reads: base64 of a zlib-compressed JSON list of ``FRAGMENTS_PER_LINE`` fragments."""
    lines = []
    remaining = iter(fragments)
    while batch := list(itertools.islice(remaining, FRAGMENTS_PER_LINE)):
        plain = json.dumps(batch, ensure_ascii=False, separators=(",", ":")).encode()
        lines.append(base64.b64encode(zlib.compress(plain, 9)).decode())
    return lines
