"""Text for planted subjects: sentences with words of all concepts except those that only weights can show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from harness.evidence import Corpus
from harness.planted.settings import Planting
from harness.planted.truth import Seen, Truth
from harness.seeds import derive_rng
from harness.stems import stem
from harness.validation import Count, validated

#: Sentence templates. Those that contain a word of a planted concept are not used.
FRAMES = (
    "The report mentions {} and {}, and then deals with {} for no good reason.",
    "There was nothing left but {}, {} and a bit of {}.",
    "What has {} got to do with {}, and who would ever think of {}?",
    "According to the notes, {} comes before {} and after {}.",
    "Nobody there had heard of {}, though everyone knew about {} and {}.",
    "If you compare {} with {}, you will find that {} is the better match.",
    "It began with {}, went on to {} and ended with {}.",
    "Another passage deals with {}, with {} and, in part, with {}.",
    "They kept {} apart from {}, as they always had, and put {} aside.",
    "Some prefer {} to {}, others would rather have {}.",
    "On the list were {}, {}, {} and several other things.",
    "He could not tell {} from {}, let alone from {}.",
    "She had always been fond of {}, less so of {}, and not at all of {}.",
    "Between {} and {} there is not much to choose; {} is something else.",
    "We talked about {} at length, then about {}, and forgot about {}.",
    "Without {} there would be no {}, and without {} none of this.",
    "The entry under {} refers to {} and also to {}.",
    "Perhaps {} is to blame, perhaps {}, but certainly not {}.",
    "I remember {} best, then {}, and only dimly {}.",
    "People often confuse {} with {}, which in turn is close to {}.",
    "Begin with {}, then try {}, and leave {} for later.",
    "Both {} and {} will do, but {} will not.",
    "It is not {} that matters, nor {}, but {}.",
    "Most of it concerns {}; the rest is about {} or {}.",
)
#: Probability that a slot in a sentence about a concept gets a word of it. Other slots get any word.
_ON_TOPIC = 0.6
_TOPICS, _SENTENCES = 2, 6
_WORD = re.compile(r"[a-z]+")


class PlantedCorpus(Corpus):
    """Documents of six sentences, each about one of two concepts of the document or about no concept.

    If the difficulties of the subject have rates, a document is one sentence about one concept or none, and each
    concept has its share of the documents. A document is then a window, so the rates are those of activating windows.

    They contain no form of a word of a concept that only weights can show. They depend on the settings alone.

    Args:
        planting: the section ``subject.planting`` of the config.
        documents: number of documents.
        name: name in reports.

    Raises:
        HarnessError: if the subject was not planted (``planting`` is None), or an argument is invalid.
    """

    @validated
    def __init__(
        self,
        planting: Planting | None,
        documents: Count = 2000,
        name: str = "planted",
    ) -> None:
        self.name, self._planting, self._documents = name, Planting.of(planting), documents

    def texts(self) -> Iterator[str]:
        """Yield the documents. Each has its own seed."""
        from harness.planted.planting import truth_of  # imports PyTorch

        truth = truth_of(self._planting)
        fillers = self._fillers(truth)
        topics = [concept.words for concept in truth.concepts if concept.seen is not Seen.WEIGHTS]
        frames = _frames(truth)
        rated = [(concept.words, concept.rate) for concept in truth.concepts if concept.rate is not None]
        for number in range(self._documents):
            rng = derive_rng(self._planting.seed, "planted", "document", number)
            yield _rated_sentence(rng, frames, rated, fillers) if rated else _document(rng, frames, topics, fillers)

    def _fillers(self, truth: Truth) -> list[str]:
        """Return the whole words of the vocabulary that belong to no concept, sorted."""
        from harness.planted.planting import base_model  # imports PyTorch

        taken = _stems(truth)
        words = (word for word in base_model(self._planting).tokenizer.get_vocab() if len(word) > 2)
        return sorted(
            word for word in words if word.isascii() and word.isalpha() and word.islower() and stem(word) not in taken
        )


def _document(
    rng: np.random.Generator, frames: Sequence[str], concepts: Sequence[Sequence[str]], fillers: Sequence[str]
) -> str:
    count = min(_TOPICS, len(concepts))
    topics = [concepts[index] for index in rng.choice(len(concepts), count, replace=False)] if concepts else []
    sentences = []
    for _ in range(_SENTENCES):
        frame = _pick(rng, frames)
        # One sentence in three is about no concept.
        turn = int(rng.integers(_TOPICS + 1))
        sentences.append(_sentence(rng, frame, topics[turn] if turn < len(topics) else (), fillers))
    return " ".join(sentences)


def _rated_sentence(
    rng: np.random.Generator,
    frames: Sequence[str],
    concepts: Sequence[tuple[Sequence[str], float]],
    fillers: Sequence[str],
) -> str:
    """Return a sentence about one of the concepts, drawn by their shares, or about none; at least one word is of it."""
    place = int(np.searchsorted(np.cumsum([rate for _, rate in concepts]), rng.random(), side="right"))
    words = concepts[place][0] if place < len(concepts) else ()
    while True:
        sentence = _sentence(rng, _pick(rng, frames), words, fillers)
        if not words or not set(words).isdisjoint(_WORD.findall(sentence)):
            return sentence


def _sentence(rng: np.random.Generator, frame: str, topic: Sequence[str], fillers: Sequence[str]) -> str:
    words = [
        _pick(rng, topic) if topic and rng.random() < _ON_TOPIC else _pick(rng, fillers)
        for _ in range(frame.count("{}"))
    ]
    return frame.format(*words)


def _pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _frames(truth: Truth) -> list[str]:
    taken = _stems(truth)
    return [frame for frame in FRAMES if not taken & set(map(stem, _WORD.findall(frame.lower())))]


def _stems(truth: Truth) -> set[str]:
    return {stem(word) for concept in truth.concepts for word in (*concept.words, *concept.labels)}
