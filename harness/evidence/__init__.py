"""Activation evidence: corpora, windows of text, one pass over the corpus, and the store shared by runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lazy import lazy_exports

if TYPE_CHECKING:
    from harness.evidence.config import CorpusSummary, EvidenceConfig
    from harness.evidence.corpus import Corpus, Document
    from harness.evidence.encoding import special_affixes
    from harness.evidence.files import PackageText, TextFiles, content_hash
    from harness.evidence.prompts import draw_prompts
    from harness.evidence.reading import ReadText, TextReader
    from harness.evidence.sources import Conversations, HuggingFaceDataset, InstalledDocs
    from harness.evidence.store import Gathered, gathered, stored
    from harness.evidence.windows import split_of

__all__ = [
    "Conversations",
    "Corpus",
    "CorpusSummary",
    "Document",
    "EvidenceConfig",
    "Gathered",
    "HuggingFaceDataset",
    "InstalledDocs",
    "PackageText",
    "ReadText",
    "TextFiles",
    "TextReader",
    "content_hash",
    "draw_prompts",
    "gathered",
    "special_affixes",
    "split_of",
    "stored",
]

__getattr__ = lazy_exports(__name__, __file__)
