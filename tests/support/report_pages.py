"""Reading a report as a browser would: its elements and its text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path


def opened(report: Path) -> str:
    """Return the page as it is when all its neurons are open: what is packed stands unpacked in its place."""

    def unpack(packed: re.Match[str]) -> str:
        lines = [zlib.decompress(base64.b64decode(line)) for line in packed[1].split()]
        return "".join(piece for line in lines for piece in json.loads(line))

    page = report.read_text(encoding="utf-8")
    return re.sub(r'<script type="text/plain" class="packed"[^>]*>(.*?)</script>', unpack, page, flags=re.DOTALL)


class Reader(HTMLParser):
    """What a browser would make of the page: elements and their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def is_text(page: str) -> None:
    reader = Reader(page)
    assert [tag for tag, _ in reader.elements].count("script") == 1  # the page's own
    assert not [tag for tag, _ in reader.elements if tag in {"img", "iframe", "object", "embed", "link", "base"}]
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
