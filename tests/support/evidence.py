"""A small corpus, tiny subjects and helpers for the tests of evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from harness.evidence import (
    Corpus,
    CorpusSummary,
    Document,
    EvidenceConfig,
    gathered,
)
from harness.evidence.encoding import CONTEXT, Encoder
from harness.evidence.shards import Spread
from harness.evidence.windows import Cutter, Window
from harness.exemplar_table import ExemplarTable
from harness.folder import read_table
from harness.records import Alignment, Exemplar, Neuron, Sign, Source, Split
from harness.subject import Subject
from support import tiny_models

SHARES = {Split.EXPLAIN: 0.3, Split.SELECT: 0.2, Split.CALIBRATE: 0.2, Split.REPORT: 0.3}
SMALL = EvidenceConfig(
    window=12, splits=SHARES, top=3, random=4, report_random=4, quantiles=3, per_quantile=2, batch_windows=16
)


class Listed(Corpus):
    """A corpus of given texts."""

    def __init__(self, texts: Sequence[str], name: str = "listed") -> None:
        self.name, self._texts = name, texts

    def texts(self) -> Iterator[str]:
        yield from self._texts


def cut_windows(
    documents: Iterable[Document], subject: Subject, config: EvidenceConfig = SMALL, seed: int = 0, **changes: Any
) -> list[Window]:
    config = replace(config, **changes)
    return list(Cutter(Encoder(subject.tokenizer), config, seed).cut(documents))


def pieces(subject: Subject, window: Window) -> list[tuple[str, list[int]]]:
    """Return the text of each visible piece of a window, and the positions of its tokens."""
    counted = [at for at, mark in enumerate(window.marks) if mark != CONTEXT]
    found = subject.texts.pieces([window.tokens[at] for at in counted])
    return [(piece.text, counted[piece.start : piece.stop]) for piece in found]


@dataclass(frozen=True)
class Kept:
    """The content of a run's folder after gathering evidence."""

    exemplars: list[Exemplar]
    alignment: list[Alignment]
    summary: CorpusSummary

    def of(self, neuron: Neuron, split: Split, source: Source) -> list[Exemplar]:
        return [item for item in self.exemplars if (item.neuron, item.split, item.source) == (neuron, split, source)]


def collect(
    corpus: Corpus,
    subject: Subject,
    neurons: Sequence[Neuron],
    config: EvidenceConfig = SMALL,
    *,
    folder: Path,
    seed: int = 3,
    progress: Callable[[int | None, int], None] = lambda total, done: None,
    spread: Spread | None = None,
) -> Kept:
    given: Any = {"seed": seed, "device": "cpu", "run_folder": folder, "progress": progress, "spread": spread}
    with gathered(corpus, subject, neurons, config, **given) as found:
        found.write(folder / "exemplars.parquet")
        found.write_alignment(folder / "alignment.parquet")
        summary = found.summary
    alignment = read_table(folder / "alignment.parquet", Alignment)
    return Kept(ExemplarTable(folder / "exemplars.parquet").read(), alignment, summary)


def both_signs(*neurons: Neuron) -> list[Neuron]:
    return [neuron.with_sign(sign) for neuron in neurons for sign in Sign]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def make_subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    """Models whose tokenizers add special tokens: BERT's on both sides, Llama's <s>, Gemma's none."""
    made = {}
    for family in tiny_models.FAMILIES:
        folder = tiny_models.tiny_subject(tmp_path_factory.mktemp("evidence") / family, family)
        if family == "llama":
            tokenizer = tiny_models.byte_level_tokenizer(800)
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
            )
            tokenizer.chat_template = tiny_models.CHAT_TEMPLATE
            tokenizer.save_pretrained(folder)
        made[family] = Subject(family, [str(folder)])
    return made


def short_texts() -> list[str]:
    """Return the beginnings of sixty texts, some shorter than a window."""
    return [text[: 20 if number % 6 == 0 else 150] for number, text in enumerate(tiny_models.texts()[:60])]
