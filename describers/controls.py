"""Controls: entries that say nothing about the neuron, and that any method worth its name must beat."""

from __future__ import annotations

from harness.fillers import EMPTY, GENERIC
from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Description, Neuron, Status
from harness.seeds import derangement


class Shuffled(Describer):
    """Gives each neuron another neuron's description by the same source: right in style and length, wrong in content.

    Args:
        source: the describer whose descriptions are dealt out anew. No neuron gets its own.
    """

    control = True

    def __init__(self, source: str) -> None:
        self._source = source
        self.after = (source,)

    async def describe(self, case: DescriberCase) -> Draft:
        """Look up whose description this neuron gets."""
        # Of neurons whatever the sign: the other sign of the same neuron is not another neuron.
        neurons = sorted({neuron.unsigned for neuron in case.neurons})
        if len(neurons) < 2:
            raise Unanswered(Status.FAILED, "a single neuron has nobody to swap descriptions with")
        order = derangement(len(neurons), case.seed, "shuffled", self._source)
        donor = neurons[order[neurons.index(case.neuron.unsigned)]].with_sign(case.neuron.sign)
        given = case.others[self._source].get(donor)
        if given is None or given.status is not Status.OK:
            raise Unanswered(Status.FAILED, f"{self._source} has no description of {donor}")
        return _taken(given, f"{self._source}'s description of {donor}")


class Longest(Describer):
    """Gives every neuron the longest description that the source has of any other neuron.

    It is wrong in content as ``shuffled`` is, and as long as the source's descriptions come: a judge that takes length
    for quality prefers it. Length is counted in words, then in characters; equal ones go by the order of the neurons.

    Args:
        source: the describer whose longest description is handed out. The neuron that it is of gets the second longest.
    """

    control = True

    def __init__(self, source: str) -> None:
        self._source = source
        self.after = (source,)

    async def describe(self, case: DescriberCase) -> Draft:
        """Look up the longest description of another neuron."""
        made = [
            given
            for neuron, given in case.others[self._source].items()
            if neuron.unsigned != case.neuron.unsigned and given.status is Status.OK
        ]
        if not made:
            raise Unanswered(Status.FAILED, f"{self._source} has no description of another neuron")

        def by_length(given: Description) -> tuple[int, int, Neuron]:
            return -len(given.text.split()), -len(given.text), given.neuron

        longest = min(made, key=by_length)
        return _taken(longest, f"{self._source}'s description of {longest.neuron}, its longest")


class Generic(Describer):
    """Says the same of every neuron.

    Args:
        text: what it says.
    """

    control = True

    def __init__(self, text: str = GENERIC) -> None:
        self._text = text

    async def describe(self, case: DescriberCase) -> Draft:
        """Return the text."""
        return Draft(self._text)


class Empty(Generic):
    """Says of every neuron that nothing is said of it.

    An empty text would be a failure, and leave the judges nothing to compare; what they see in its place is this.

    Args:
        text: what stands for no description.
    """

    def __init__(self, text: str = EMPTY) -> None:
        super().__init__(text)


def _taken(given: Description, detail: str) -> Draft:
    return Draft(given.text, detail, evidence=given.evidence)
