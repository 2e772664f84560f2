"""Text cut into windows of tokens, and documents dealt out to the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from harness.errors import HarnessError
from harness.evidence.corpus import Document
from harness.records import Split
from harness.seeds import derive_seed

#: So many tokens in a row in two splits are a copy, not a coincidence.
SHARED = 16


@dataclass(frozen=True)
class Window:
    """A run of tokens of one document; special tokens are not among them.

    Attributes:
        document: identity of the document.
        split: the split the document belongs to.
        tokens: token ids.
    """

    document: str
    split: Split
    tokens: tuple[int, ...]


def split_of(document: str, shares: Mapping[Split, float], seed: int) -> Split:
    """Deal a document to a split, by a hash of its identity and the seed.

    Args:
        document: identity of the document.
        shares: share of the documents of each split; they need not sum to 1.
        seed: the run's seed.
    """
    place = derive_seed(seed, "split", document) / 2**63 * sum(shares.values())
    for split, share in shares.items():
        place -= share
        if place < 0:
            return split
    return list(shares)[-1]


def cut_windows(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    shares: Mapping[Split, float],
    seed: int,
) -> list[Window]:
    """Cut documents into windows that do not overlap; a document's short rest is left out, unless it is all there is.

    A window that occurs again (a licence, a table of contents) is kept once, and one that shares ``SHARED`` tokens in a
    row with a window of another split is left out: documentation is copied between documents, and what a describer has
    read must not come back as a judge's evidence.

    Args:
        documents: the texts.
        tokenizer: the subject's.
        length: tokens per window.
        shares: share of the documents of each split.
        seed: the run's seed.
    """
    windows = []
    seen: set[tuple[int, ...]] = set()
    home: dict[tuple[int, ...], Split] = {}  # the split of every run of SHARED tokens that has been kept
    for document in documents:
        split = split_of(document.id, shares, seed)
        # A text that spells out a special token ("</s>") is text all the same.
        tokens = tokenizer(document.text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        cut = [tuple(tokens[start : start + length]) for start in range(0, len(tokens), length)]
        for run in cut:
            if (len(run) < length and len(cut) > 1) or run in seen:
                continue
            shared = {run[start : start + SHARED] for start in range(max(1, len(run) - SHARED + 1))}
            if all(home.get(piece, split) is split for piece in shared):
                seen.add(run)
                home.update(dict.fromkeys(shared, split))
                windows.append(Window(document.id, split, run))
    return windows


def check_splits(windows: Sequence[Window], needed: int) -> None:
    """Check that every split has enough windows, and that no document stands in two splits.

    Raises:
        HarnessError: naming the split that falls short.
    """
    counts = Counter(window.split for window in windows)
    for split in Split:
        if counts[split] < needed:
            raise HarnessError(
                f"the corpus is too small for the splits: {split.value} has {counts[split]} windows and needs "
                f"{needed}; give more text (corpus), ask for fewer exemplars (evidence.top, evidence.random) "
                "or shift evidence.splits"
            )
    homes = {(window.document, window.split) for window in windows}
    assert len(homes) == len({document for document, _ in homes}), "a document stands in two splits"
