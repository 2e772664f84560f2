"""Helpers that read a report like a browser: its elements, text and tables."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

from support.finished_run import ATTACK


def opened(report: Path) -> str:
    """Return the page with all neurons open: packed fragments are unpacked in place."""

    def unpack(packed: re.Match[str]) -> str:
        lines = [zlib.decompress(base64.b64decode(line)) for line in packed[1].split()]
        return "".join(piece for line in lines for piece in json.loads(line))

    page = report.read_text(encoding="utf-8")
    return re.sub(r'<script type="text/plain" class="packed"[^>]*>(.*?)</script>', unpack, page, flags=re.DOTALL)


class Reader(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

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
    """Assert that text from models and corpora became no elements, attributes or invisible characters."""
    reader = Reader(page)
    assert [tag for tag, _ in reader.elements].count("script") == 1  # the page's own
    assert not [tag for tag, _ in reader.elements if tag in {"img", "iframe", "object", "embed", "link", "base"}]
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def shows_attack_as_text(page: str) -> None:
    """Assert that the hostile texts of ``make_run`` are on the page, as text."""
    is_text(page)
    assert html.escape(ATTACK) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert "{{ 7 * 7 }}" in page
    assert "\\u202e" in page


def check_structure(page: str) -> None:
    """Assert that ids are unique, links have targets, and headings skip no level."""
    elements = Reader(page).elements
    ids = [attributes["id"] for _, attributes in elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    anchors = {attributes["href"][1:] for tag, attributes in elements if tag == "a" and attributes.get("href")}  # type: ignore[index]
    assert anchors <= set(ids)


def table_rows(page: str, label: str) -> list[list[str]]:
    """Return the words of each row of the table in the region with this label."""
    table = page[page.index(f'aria-label="{label}"') :]
    table = table[: table.index("</table>")]
    return [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr[^>]*>.*?</tr>", table, re.DOTALL)]
