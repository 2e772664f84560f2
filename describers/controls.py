"""Controls: uninformative descriptions that every method should beat."""

from __future__ import annotations

from describers.others import copied, description_by, donor
from harness.fillers import GENERIC
from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Status
from harness.text import word_count
from harness.validation import validated


class Shuffled(Describer):
    """Gives each neuron another neuron's description by the same source: right in style and length, wrong in content.

    Args:
        source: name of the describer whose descriptions are shuffled. No neuron keeps its own.
    """

    control = True

    @validated
    def __init__(self, source: str) -> None:
        self._source = source
        self.after = (source,)

    async def describe(self, case: DescriberCase) -> Draft:
        """Return the other neuron's description."""
        other = donor(case, "shuffled", self._source)
        return copied(description_by(self._source, case, other), f"{self._source}'s description of {other}")


class Longest(Describer):
    """Gives every neuron the longest description that the source has of any other neuron.

    The content is wrong, as in ``shuffled``. A judge that mistakes length for quality prefers it. Length is counted in
    words, then in characters; ties go to the first neuron.

    Args:
        source: name of the describer whose longest description is used. The neuron it belongs to gets the
            second-longest description.
    """

    control = True

    @validated
    def __init__(self, source: str) -> None:
        self._source = source
        self.after = (source,)

    async def describe(self, case: DescriberCase) -> Draft:
        """Return the longest description of another neuron."""
        others = [
            given
            for neuron, given in case.others[self._source].items()
            if neuron.unsigned != case.neuron.unsigned and given.status is Status.OK
        ]
        longest = min(others, key=lambda item: (-word_count(item.text), -len(item.text), item.neuron), default=None)
        if longest is None:
            raise Unanswered(Status.FAILED, f"{self._source} has no description of another neuron")
        return copied(longest, f"{self._source}'s description of {longest.neuron}, its longest")


class Generic(Describer):
    """Gives every neuron the same text.

    Args:
        text: the text.
    """

    control = True

    @validated
    def __init__(self, text: str = GENERIC) -> None:
        self._text = text

    async def describe(self, case: DescriberCase) -> Draft:
        """Return the text."""
        return Draft(self._text)
