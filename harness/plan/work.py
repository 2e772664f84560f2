"""What a run still has to do, counted from its config and its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.folder import Journal, RunFolder
from harness.records import Neuron, Status
from harness.run.channel_store import ChannelStore
from harness.run.decompose import pending_vectors
from harness.run.describe import pending_descriptions
from harness.run.diagnostics import Group, pending_diagnostics
from harness.run.judge import asked_again, pending_scores, pending_verdicts
from harness.run.setup import Setup
from harness.run.worker import Block


@dataclass(frozen=True)
class Work:
    """Open work of a run.

    Attributes:
        vectors: vectors to decompose, one block for each layer and vector kind.
        diagnostics: diagnostics to measure: a group of vectors, and the kind of diagnostic.
        items: open items of each method. Their first element is the neuron.
        retests: items that each judge answers a second time if it answers every open one.
        done: number of answered items of each method.
    """

    vectors: tuple[Block, ...]
    diagnostics: tuple[tuple[Group, str], ...]
    items: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    retests: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)

    @cached_property
    def per_neuron(self) -> Counter[Neuron]:
        """Number of open items of each neuron."""
        return Counter(item[0] for items in self.items.values() for item in items)

    @property
    def empty(self) -> bool:
        """Whether the run is finished."""
        return not self.vectors and not self.diagnostics and not self.per_neuron and not any(self.retests.values())

    def channels(self, setup: Setup) -> int:
        """Return the number of channels to find."""
        return sum(
            len(block.neurons) * setup.decomposition.config(block.layer, block.kind).num_channels
            for block in self.vectors
        )


def open_items(setup: Setup, folder: RunFolder) -> dict[str, list[tuple[Any, ...]]]:
    """Return the open items of each method: (neuron,), (neuron, first, second) or (neuron, describer)."""
    described = pending_descriptions(setup, folder.descriptions())
    return {
        **{name: [(neuron,) for neuron in neurons] for name, neurons in described.items()},
        **pending_verdicts(setup, folder.verdicts()),
        **pending_scores(setup, folder.scores()),
    }


def work_of(setup: Setup, folder: RunFolder, *, subject_is_here: bool = True) -> Work:
    """Return the open work of a run.

    Args:
        setup: the run.
        folder: its folder; it need not exist.
        subject_is_here: whether the subject's weights can be read: without them, shared channels cannot be found.
    """
    pending = pending_vectors(setup, folder)
    store = ChannelStore(setup) if subject_is_here else None
    vectors = tuple(pending if store is None else store.missing(pending))
    diagnostics = tuple(pending_diagnostics(setup, folder, store))
    if not setup.compares:
        return Work(vectors, diagnostics)
    descriptions, verdicts, scores = folder.descriptions(), folder.verdicts(), folder.scores()
    items, retests = open_items(setup, folder), {}
    answered: dict[str, list[tuple[Any, ...]]] = {name: [] for name in items}
    for record in _usable(descriptions):
        answered.setdefault(record.describer, []).append((record.neuron,))
    for record in _usable(verdicts):
        answered.setdefault(record.judge, []).append((record.neuron, record.first, record.second))
    for record in _usable(scores):
        answered.setdefault(record.scorer, []).append((record.neuron, record.describer))
    for name in setup.judges:
        journal: Journal[Any] = folder.retests() if name in setup.comparators else folder.score_retests()
        drawn: Sequence[Any] = asked_again(setup, name, [*answered[name], *items[name]])
        retests[name] = [item for item in drawn if not journal.done((item[0], name, *item[1:]))]
    return Work(vectors, diagnostics, items, retests, {name: len(found) for name, found in answered.items()})


def _usable(journal: Journal[Any]) -> list[Any]:
    return [record for record in journal.records() if record.status is Status.OK]
