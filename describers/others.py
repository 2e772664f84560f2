"""Other neurons and other describers, as far as a describer uses them."""

from __future__ import annotations

from collections.abc import Iterable

from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Description, Neuron, Status, VectorKind
from harness.seeds import derangement


def description_by(source: str, case: DescriberCase, neuron: Neuron | None = None) -> Description:
    """Return the description of a neuron, by default the case's, by the describer ``source``.

    Raises:
        Unanswered: if there is none.
    """
    neuron = neuron or case.neuron
    given = case.others[source].get(neuron)
    if given is None or given.status is not Status.OK:
        raise Unanswered(Status.FAILED, f"{source} has no description of {neuron}")
    return given


def donor(case: DescriberCase, purpose: str, source: str) -> Neuron:
    """Return the neuron whose description replaces the case's, at the same sign; no neuron is its own donor.

    Raises:
        Unanswered: if the run has one neuron only.
    """
    # The other sign of the same neuron does not count as another neuron.
    neurons = sorted({neuron.unsigned for neuron in case.neurons})
    if len(neurons) < 2:
        raise Unanswered(Status.FAILED, "there is no other neuron to swap descriptions with")
    order = derangement(len(neurons), case.seed, purpose, source)
    return neurons[order[neurons.index(case.neuron.unsigned)]].with_sign(case.neuron.sign)


def copied(given: Description, detail: str) -> Draft:
    """Return a description as a draft for another neuron."""
    return Draft(given.text, detail, evidence=given.evidence, tokens=given.tokens, parts=given.parts)


def copy_needs(wrapper: Describer, describers: Iterable[Describer]) -> None:
    """Give a describer all the needs of the describers inside it."""
    inside = tuple(describers)
    wrapper.needs_channels = any(one.needs_channels for one in inside)
    wrapper.needs_random_channels = any(one.needs_random_channels for one in inside)
    wrapper.needs_exemplars = any(one.needs_exemplars for one in inside)
    wrapper.needs_effects = any(one.needs_effects for one in inside)
    wrapper.kinds = tuple(kind for kind in VectorKind if any(kind in one.kinds for one in inside))
    wrapper.after = tuple(dict.fromkeys(name for one in inside for name in one.after))
