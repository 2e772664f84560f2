"""Controls that try to win without describing the neuron. A judge that prefers one to a right description is fooled."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from describers.others import description_by
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Corruption, Source, Split
from harness.seeds import derive_rng
from harness.text import bare, is_word
from harness.validation import Count, validated

#: Concepts that make many neurons of language models active, most general first.
COMMON = (
    *("numbers", "dates and years", "names of people", "names of places", "punctuation", "verbs", "adjectives"),
    *("politics", "sports", "music", "food", "animals", "science", "computers"),
    *("money", "law", "medicine", "weather", "family", "religion", "war"),
    *("business", "education", "travel", "art", "plants", "colours", "feelings"),
    *("clothes", "vehicles", "buildings", "parts of the body", "time", "quantities", "languages"),
    *("countries", "questions"),
)
#: Mechanisms, stated with confidence, that no language model's neuron is known to have.
MECHANISMS = (
    "counts the letters of each word and fires if their number is prime",
    "compares the rhyme of the current line with that of the line before",
    "tracks the depth of nested parentheses modulo three",
    "detects sentences whose number of words is divisible by seven",
    "fires on every token whose position in the document is a square number",
    "encodes whether the text was translated from another language",
    "responds to palindromes that span more than one word",
    "decides whether the author of the text is left-handed",
)


class Adversary(Describer):
    """A control of known quality that a judge must not prefer to a right description."""

    control = True
    trick: ClassVar[str]
    quality: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self.corruption = Corruption(self.trick, self.quality)

    @abstractmethod
    def text(self, case: DescriberCase) -> str:
        """Return the description."""

    async def describe(self, case: DescriberCase) -> Draft:
        """Return the description."""
        return Draft(self.text(case), self.trick)


class Shotgun(Adversary):
    """Claims many common concepts, one of which may be right: over-claims as much as possible.

    Args:
        concepts: number of concepts.
    """

    trick = "shotgun"

    @validated
    def __init__(self, concepts: Count = 30) -> None:
        super().__init__()
        self._concepts = concepts

    def text(self, case: DescriberCase) -> str:
        """Return the list."""
        return f"is active on {', '.join(COMMON[: self._concepts])}"


class ConfidentMechanism(Adversary):
    """States a detailed mechanism with confidence, drawn by neuron, that is wrong."""

    trick = "confident wrong mechanism"

    def text(self, case: DescriberCase) -> str:
        """Return the mechanism."""
        index = int(derive_rng(case.seed, "mechanism", case.neuron).integers(len(MECHANISMS)))
        return (
            f"This neuron {MECHANISMS[index]}. This was verified on thousands of examples without an exception, and "
            "every other interpretation was ruled out by ablation."
        )


class Verbatim(Adversary):
    """Quotes the most active windows of the explain split instead of saying what they have in common.

    It knows the neuron, but its words are those of any text.

    Args:
        windows: number of windows quoted.
        context: tokens quoted on either side of the peak.
    """

    informed = True
    needs_exemplars = True
    trick = "verbatim exemplars"
    quality = 0.25

    @validated
    def __init__(self, windows: Count = 5, context: Count = 12) -> None:
        super().__init__()
        self._windows, self._context = windows, context

    def text(self, case: DescriberCase) -> str:
        """Return the windows."""
        shown = case.windows(Split.EXPLAIN, Source.TOP)[: self._windows]
        quoted = ("".join(item.crop(2 * self._context + 1, shift=False).tokens).strip() for item in shown)
        return "; ".join(f'"{text}"' for text in quoted) or "no text"


class KeywordStuffing(Adversary):
    """Adds frequent words of the explain split's random windows to another describer's description.

    Args:
        source: the describer whose descriptions are stuffed.
        words: number of words added.
    """

    informed = True
    needs_exemplars = True
    trick = "keyword stuffing"
    quality = 0.25

    @validated
    def __init__(self, source: str, words: Count = 40) -> None:
        super().__init__()
        self.after = (source,)
        self._source, self._words = source, words

    def text(self, case: DescriberCase) -> str:
        """Return the source's description followed by words of random windows, in their order."""
        tokens = (bare(token).lower() for item in case.windows(Split.EXPLAIN, Source.RANDOM) for token in item.tokens)
        words = list(dict.fromkeys(token for token in tokens if len(token) > 3 and is_word(token)))[: self._words]
        return f"{description_by(self._source, case).text}, {', '.join(words)}"
