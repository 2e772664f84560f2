"""Pieces of the corpus over which the effects of interventions are averaged."""

from __future__ import annotations

from harness.errors import HarnessError
from harness.evidence.corpus import Corpus
from harness.evidence.exemplars import EvidenceConfig
from harness.evidence.windows import split_of
from harness.records import Split, TextPrompt
from harness.seeds import derive_rng, derive_seed
from harness.subject import Subject


def draw_prompts(
    corpus: Corpus, subject: Subject, config: EvidenceConfig, split: Split, *, count: int, tokens: int, seed: int
) -> list[TextPrompt]:
    """Draw pieces of text of one split, from as many documents as there are.

    Args:
        corpus: where the text comes from.
        subject: whose tokens are counted.
        config: which documents are read, and how they are dealt to the splits.
        split: the split.
        count: how many pieces.
        tokens: length of each.
        seed: the run's seed.

    Raises:
        HarnessError: if the split has less text.
    """
    documents = [
        document
        for document in corpus.documents(config.max_documents)
        if split_of(document.id, config.splits, seed) is split
    ]
    documents.sort(key=lambda document: derive_seed(seed, "prompts", document.id))
    pieces: list[list[TextPrompt]] = []  # of each document, in the order in which they are taken
    for document in documents:
        # A text that spells out a special token ("</s>") is text all the same.
        ids = subject.tokenizer(
            document.text, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        starts = range(0, len(ids) - tokens + 1, tokens)
        order = derive_rng(seed, "prompts of a document", document.id).permutation(len(starts))
        cut = [tuple(ids[starts[place] : starts[place] + tokens]) for place in order.tolist()]
        if cut:
            pieces.append([TextPrompt(split, document.id, piece, "".join(subject.surface(piece))) for piece in cut])
        if len(pieces) == count:
            break
    turns = [own[turn] for turn in range(max(map(len, pieces), default=0)) for own in pieces if turn < len(own)]
    if len(turns) < count:
        raise HarnessError(
            f"the {split.value} split of the corpus has {len(turns)} pieces of {tokens} tokens and needs {count}: give "
            "more text (corpus), or ask for less (steering.effects.prompts, steering.effects.tokens)"
        )
    return turns[:count]
