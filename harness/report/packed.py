"""Many pieces of HTML in little room: compressed, as text, to be unpacked by the page when one of them is looked at.

A thousand neurons are some 60 MB of HTML that says much the same again and again, of which a reader opens a few. The
pieces go through the same templates as the rest of the page, so that whatever is foreign in them is escaped already.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections.abc import Iterable

TOGETHER = 8
"""Pieces that are compressed, and unpacked, as one: more would be no smaller, for deflate looks back 32 KiB."""


def pack(pieces: Iterable[str]) -> list[str]:
    """Return lines of text, each ``TOGETHER`` pieces: base64 of the zlib form of a JSON list. report.js reads them."""
    lines = []
    rest = iter(pieces)
    while some := list(itertools.islice(rest, TOGETHER)):
        plain = json.dumps(some, ensure_ascii=False, separators=(",", ":")).encode()
        lines.append(base64.b64encode(zlib.compress(plain, 9)).decode())
    return lines
