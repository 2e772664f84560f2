"""Activation evidence: corpora, windows, exemplars, document-disjoint splits."""

from harness.evidence.corpus import Corpus, Document, HuggingFaceDataset, InstalledDocs, TextFiles
from harness.evidence.exemplars import (
    CorpusSummary,
    EvidenceConfig,
    collect_exemplars,
    gather_windows,
    special_affixes,
    summarise,
)
from harness.evidence.prompts import draw_prompts
from harness.evidence.reading import ReadText, TextReader
from harness.evidence.windows import Window

__all__ = [
    "Corpus",
    "CorpusSummary",
    "Document",
    "EvidenceConfig",
    "HuggingFaceDataset",
    "InstalledDocs",
    "ReadText",
    "TextFiles",
    "TextReader",
    "Window",
    "collect_exemplars",
    "draw_prompts",
    "gather_windows",
    "special_affixes",
    "summarise",
]
