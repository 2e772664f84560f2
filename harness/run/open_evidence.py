"""The evidence that a method may see, read from the run folder when it is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import lru_cache

from harness.exemplar_table import ExemplarTable
from harness.records import Activity, Exemplar, Neuron, Split

#: Neurons whose exemplars are cached, because methods work on many neurons at once.
CACHED = 128


class Evidence:
    """Exemplars and activity of some splits, by neuron.

    Args:
        exemplars: the run's exemplars; None if it has none.
        activity: how active its neurons are.
        splits: the splits that the method may see.
    """

    def __init__(
        self, exemplars: ExemplarTable | None, activity: Iterable[Activity], splits: Collection[Split]
    ) -> None:
        self._table, self._splits = exemplars, frozenset(splits)
        self._activity: dict[Neuron, dict[Split, Activity]] = defaultdict(dict)
        for record in activity:
            if record.split in self._splits:
                self._activity[record.neuron][record.split] = record
        self.exemplars = lru_cache(maxsize=CACHED)(self._exemplars)

    def _exemplars(self, neuron: Neuron) -> tuple[Exemplar, ...]:
        if self._table is None:
            return ()
        return tuple(item for item in self._table.read([neuron]) if item.split in self._splits)

    def activity(self, neuron: Neuron) -> dict[Split, Activity]:
        """Return how active a neuron is, by split."""
        return self._activity.get(neuron, {})
