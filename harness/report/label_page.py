"""The page on which people compare descriptions: one HTML file without any outside part."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from harness.methods import EvidenceBlock
from harness.records import Description, Side
from harness.report.build import environment, script_hash
from harness.results.formatting import visible

_HERE = Path(__file__).parent
QUESTIONS = {
    Side.INPUT: "Which description fits better the texts and tokens on which the neuron is active, and those on which "
    "it is not?",
    Side.OUTPUT: "Which description fits better what the neuron makes the model more likely to say, and what less?",
    Side.BOTH: "Which description fits better both the texts on which the neuron is active, and what it makes the "
    "model more likely to say?",
}


@dataclass(frozen=True)
class Item:
    """One pair on the page.

    Attributes:
        neuron: name of the neuron.
        first: the description that is shown as A.
        second: the description that is shown as B.
        evidence: the evidence below them.
    """

    neuron: str
    first: Description
    second: Description
    evidence: tuple[EvidenceBlock, ...]


def label_page(run: str, side: Side, items: Sequence[Item]) -> str:
    """Return the page as HTML.

    The names of neurons and describers are in it only as base64, for the labels file that the page saves.
    """
    script = (_HERE / "label.js").read_text(encoding="utf-8")
    key = json.dumps(
        [
            {
                "neuron": item.neuron,
                "first": item.first.describer,
                "second": item.second.describer,
                "first_text": item.first.text,
                "second_text": item.second.text,
            }
            for item in items
        ]
    )
    return (
        environment()
        .get_template("label.html.j2")
        .render(
            run=run,
            question=QUESTIONS[side],
            items=items,
            marked=_marked,
            key=base64.b64encode(key.encode()).decode(),
            page=hashlib.sha256(key.encode()).hexdigest()[:16],
            style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=script_hash(script),
        )
    )


def _marked(text: str) -> Markup:
    """Return a text of evidence as HTML, with what is between « and » marked."""
    pieces = re.split("«([^»]*)»", visible(text))
    return Markup("").join(
        Markup("<mark>{}</mark>").format(piece) if place % 2 else escape(piece) for place, piece in enumerate(pieces)
    )
