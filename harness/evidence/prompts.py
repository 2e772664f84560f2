"""Pieces of corpus text over which the effects of interventions are averaged."""

from __future__ import annotations

import heapq

from harness.errors import HarnessError
from harness.evidence.config import EvidenceConfig
from harness.evidence.corpus import Corpus
from harness.evidence.windows import split_of
from harness.records import Split, TextPrompt
from harness.seeds import derive_rng, derive_seed
from harness.subject import Subject

#: Candidate documents per piece: some are too short. Bounds the memory for large corpora.
CANDIDATES = 64


def draw_prompts(
    corpus: Corpus,
    subject: Subject,
    config: EvidenceConfig,
    split: Split,
    *,
    count: int,
    tokens: int,
    seed: int,
    fewest: int | None = None,
    seen: Corpus | None = None,
) -> list[TextPrompt]:
    """Draw pieces of text of one split, from as many different documents as possible.

    Args:
        corpus: source of the text.
        subject: the model whose tokenizer is used.
        config: which documents are read, and the shares of the splits.
        split: the split.
        count: number of pieces.
        tokens: tokens per piece.
        seed: the run's seed.
        fewest: smallest number of pieces that is sufficient; None: ``count``.
        seen: the corpus that describers see, if only judges see ``corpus``; None if both see it. Its documents are
            left out.

    Raises:
        HarnessError: if the split has too little text.
    """
    known = {document.id for document in seen.documents(config.max_documents)} if seen else set[str]()
    shares = config.shares(seen is not None)
    documents = heapq.nsmallest(
        CANDIDATES * count,
        (
            document
            for document in corpus.documents(config.most_documents(seen is not None))
            # A text with fewer characters than tokens is too short.
            if len(document.text) >= tokens
            and document.id not in known
            and split_of(document.id, shares, seed) is split
        ),
        key=lambda document: derive_seed(seed, "prompts", document.id),
    )
    by_document: list[list[TextPrompt]] = []  # pieces of each document, in random order
    for document in documents:
        # Special tokens spelled out in a text ("</s>") are tokenized as ordinary text.
        ids = subject.tokenizer(
            document.text, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        starts = range(0, len(ids) - tokens + 1, tokens)
        order = derive_rng(seed, "prompts of a document", document.id).permutation(len(starts))
        pieces = [tuple(ids[starts[index] : starts[index] + tokens]) for index in order.tolist()]
        if pieces:
            by_document.append(
                [TextPrompt(split, document.id, piece, "".join(subject.surface(piece))) for piece in pieces]
            )
        if len(by_document) == count:
            break
    # The first piece of every document, then the second ones, and so on.
    longest = max(map(len, by_document), default=0)
    drawn = [pieces[index] for index in range(longest) for pieces in by_document if index < len(pieces)]
    fewest = count if fewest is None else fewest
    if len(drawn) < fewest:
        raise HarnessError(
            f"the {split.value} split of the corpus has {len(drawn)} pieces of {tokens} tokens and needs {fewest}: "
            "give more text (corpus), or ask for less (steering.effects.prompts, steering.effects.tokens)"
        )
    return drawn[:count]
