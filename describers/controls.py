"""Controls: entries that say nothing about the neuron, and that any method worth its name must beat."""

from __future__ import annotations

from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Status
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
        neurons = sorted({neuron.whole for neuron in case.neurons})
        if len(neurons) < 2:
            raise Unanswered(Status.FAILED, "a single neuron has nobody to swap descriptions with")
        order = derangement(len(neurons), case.seed, "shuffled", self._source)
        donor = neurons[order[neurons.index(case.neuron.whole)]].at(case.neuron.sign)
        given = case.others[self._source].get(donor)
        if given is None or given.status is not Status.OK:
            raise Unanswered(Status.FAILED, f"{self._source} has no description of {donor}")
        return Draft(given.text, f"{self._source}'s description of {donor}")


class Generic(Describer):
    """Says the same of every neuron.

    Args:
        text: what it says.
    """

    control = True

    def __init__(self, text: str = "common words and punctuation in everyday written English text") -> None:
        self._text = text

    async def describe(self, case: DescriberCase) -> Draft:
        """Return the text."""
        return Draft(self._text)
