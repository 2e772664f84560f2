"""What a run still has to do, counted over its whole selection from its config and its folder: nothing is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from harness.folder import RunFolder
from harness.records import Neuron, Status
from harness.run.channel_store import ChannelStore
from harness.run.decompose import pending_vectors
from harness.run.describe import pending_descriptions
from harness.run.diagnostics import Group, pending_diagnostics
from harness.run.judge import Pair, Question, asked_again, pending_scores, pending_verdicts
from harness.run.setup import Setup
from harness.run.worker import Block


@dataclass(frozen=True)
class Work:
    """What is still to be done.

    Attributes:
        vectors: to decompose, one block for each layer and vector kind.
        diagnostics: diagnostics to measure: of which vectors, and what.
        descriptions: neurons to describe, by describer, in the order in which the describers work.
        verdicts: pairs to compare, in each order that is asked, by comparator.
        scores: descriptions to grade, by scorer.
        retests: by judge, what is asked for a second time if every answer is usable.
        done: by method, the answers that are there.
    """

    vectors: tuple[Block, ...]
    diagnostics: tuple[tuple[Group, str], ...]
    descriptions: dict[str, list[Neuron]]
    verdicts: dict[str, list[Pair]]
    scores: dict[str, list[Question]]
    retests: dict[str, list[Pair] | list[Question]]
    done: dict[str, int]

    def neurons_of(self, name: str) -> list[Neuron]:
        """Return the neuron of each item that a method has yet to answer."""
        return [
            *self.descriptions.get(name, ()),
            *(pair[0] for pair in self.verdicts.get(name, ())),
            *(question[0] for question in self.scores.get(name, ())),
        ]

    @cached_property
    def waiting(self) -> Counter[Neuron]:
        """How many items wait for each neuron."""
        return Counter(neuron for name in self._names() for neuron in self.neurons_of(name))

    def _names(self) -> Iterator[str]:
        yield from (*self.descriptions, *self.verdicts, *self.scores)

    @property
    def empty(self) -> bool:
        """Whether nothing is left to decompose, to measure or to ask."""
        return not self.vectors and not self.diagnostics and not self.waiting and not any(self.retests.values())


def work_of(setup: Setup, folder: RunFolder, *, subject_is_here: bool = True) -> Work:
    """Count what a run in its folder still has to do.

    Args:
        setup: the run.
        folder: its folder; one that does not exist is that of a new run.
        subject_is_here: whether the model's weights can be read, without which no shared channels can be found.
    """
    pending = pending_vectors(setup, folder)
    store = ChannelStore(setup) if subject_is_here else None
    if store is not None:
        pending = store.missing(pending)
    diagnostics = tuple(pending_diagnostics(setup, folder, store))
    if not setup.compares:
        return Work(tuple(pending), diagnostics, {}, {}, {}, {}, {})
    descriptions, verdicts, scores = folder.descriptions(), folder.verdicts(), folder.scores()
    pairs = pending_verdicts(setup, verdicts)
    usable = {
        name: [item for item in verdicts.records() if item.judge == name and item.status is Status.OK]
        for name in setup.comparators
    }
    grades = pending_scores(setup, scores)
    retests: dict[str, list[Pair] | list[Question]] = {}
    if setup.comparisons.retest:
        again, graded_again = folder.retests(), folder.score_retests()
        for name in setup.comparators:
            given = [(item.neuron, item.first, item.second) for item in usable[name]]
            drawn = asked_again(setup, name, [*given, *pairs[name]])
            retests[name] = [pair for pair in drawn if not again.done((pair[0], name, pair[1], pair[2]))]
        for name in grades:
            graded = [
                (item.neuron, item.describer)
                for item in scores.records()
                if item.scorer == name and item.status is Status.OK
            ]
            asked = asked_again(setup, name, [*graded, *grades[name]])
            retests[name] = [question for question in asked if not graded_again.done((question[0], name, question[1]))]
    done = Counter(item.describer for item in descriptions.records() if item.status is Status.OK)
    done += Counter({name: len(items) for name, items in usable.items()})
    done += Counter(item.scorer for item in scores.records() if item.status is Status.OK)
    return Work(
        tuple(pending),
        diagnostics,
        pending_descriptions(setup, descriptions),
        pairs,
        grades,
        retests,
        dict(done),
    )
