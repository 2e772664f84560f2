"""The tables of docs/resume.md."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "resume.md"


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading of the document, without its header."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def names(cell: str) -> list[str]:
    """Return what a cell of a table puts in backticks."""
    return re.findall(r"`([^`]+)`", cell)


#: Patterns of files by artefact, in the order in which a run makes them.
STORED = {row[0]: names(row[1]) for row in table("What is stored")}


def artefact_of(path: Path) -> str | None:
    """Return the artefact that a file belongs to; the path is relative to the run's folder."""
    return next((name for name, patterns in STORED.items() if any(path.match(pattern) for pattern in patterns)), None)
