"""Activation evidence: corpora, windows of text, one pass over the corpus, and the store shared by runs."""

from harness.evidence.config import CorpusSummary, EvidenceConfig
from harness.evidence.corpus import Column, Corpus, Document, Message
from harness.evidence.corpus_pass import capture
from harness.evidence.encoding import special_affixes
from harness.evidence.files import PackageText, TextFiles, content_hash
from harness.evidence.prompts import draw_prompts
from harness.evidence.reading import ReadText, TextReader
from harness.evidence.sources import Conversations, HuggingFaceDataset, InstalledDocs
from harness.evidence.store import Gathered, gathered, stored
from harness.evidence.windows import Window, split_of

__all__ = [
    "Column",
    "Conversations",
    "Corpus",
    "CorpusSummary",
    "Document",
    "EvidenceConfig",
    "Gathered",
    "HuggingFaceDataset",
    "InstalledDocs",
    "Message",
    "PackageText",
    "ReadText",
    "TextFiles",
    "TextReader",
    "Window",
    "capture",
    "content_hash",
    "draw_prompts",
    "gathered",
    "special_affixes",
    "split_of",
    "stored",
]
