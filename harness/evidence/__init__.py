"""Activation evidence: corpora, windows, one pass over them, and the store that runs share."""

from harness.evidence.config import CorpusSummary, EvidenceConfig
from harness.evidence.corpus import Corpus, Document, Message
from harness.evidence.corpus_pass import capture
from harness.evidence.encoding import special_affixes
from harness.evidence.prompts import draw_prompts
from harness.evidence.reading import ReadText, TextReader
from harness.evidence.sources import Conversations, HuggingFaceDataset, InstalledDocs, Rows, TextFiles
from harness.evidence.store import Gathered, gathered, stored
from harness.evidence.windows import Window, split_of

__all__ = [
    "Conversations",
    "Corpus",
    "CorpusSummary",
    "Document",
    "EvidenceConfig",
    "Gathered",
    "HuggingFaceDataset",
    "InstalledDocs",
    "Message",
    "ReadText",
    "Rows",
    "TextFiles",
    "TextReader",
    "Window",
    "capture",
    "draw_prompts",
    "gathered",
    "special_affixes",
    "split_of",
    "stored",
]
