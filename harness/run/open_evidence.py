"""The evidence that describers or judges may see, read from the run folder neuron by neuron."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from harness.evidence import TextReader
from harness.folder import RunFolder
from harness.llm.client import LLMClient
from harness.methods import Method
from harness.records import Draw, Effect, Exemplar, Neuron, Split
from harness.run.setup import Setup
from harness.seeds import derive_rng, derive_seed

#: Neurons whose exemplars and effects are kept in memory: a server works on many at once.
HELD = 64
#: Share of the documents that a bootstrap sample of many documents contains (Efron and Tibshirani 1993, section 17.7).
IN_SAMPLE = 1 - math.exp(-1)


class OpenEvidence:
    """Exemplars and effects of the splits that are open to describers, or to judges, or those of a draw.

    A resampled draw sees the windows of the documents in a bootstrap sample, each once. The run keeps the most active
    windows of all documents, so it can see fewer of them than the first descriptions saw.

    ``text`` is the folder of the exemplars, if it is not the run's.
    """

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        splits: Collection[Split],
        draw: Draw | None = None,
        text: RunFolder | None = None,
    ) -> None:
        self._setup, self._splits, self._draw = setup, frozenset(splits), draw
        again = draw is not None and not draw.resampled
        self._seed = derive_seed(setup.seed, draw) if again else setup.seed
        self._table = (text or folder).exemplar_table()
        self._reader = TextReader(setup.subject, setup.neurons, setup.executor.device)
        self._effects_by_neuron = folder.by_neuron(Effect)
        self._exemplars = lru_cache(maxsize=HELD)(self._read_exemplars)
        self._effects = lru_cache(maxsize=HELD)(self._read_effects)

    def _read_exemplars(self, neuron: Neuron) -> tuple[Exemplar, ...]:
        found = () if self._table is None else self._table.read([neuron])
        return tuple(item for item in found if item.split in self._splits and self._in_sample(item.document))

    def _in_sample(self, document: str) -> bool:
        if self._draw is None or not self._draw.resampled:
            return True
        return bool(derive_rng(self._setup.seed, self._draw, document).random() < IN_SAMPLE)

    def _read_effects(self, neuron: Neuron) -> tuple[Effect, ...]:
        return tuple(effect for effect in self._effects_by_neuron.of(neuron) if effect.split in self._splits)

    def fields(self, neuron: Neuron, method: Method, llms: Mapping[str, LLMClient]) -> dict[str, Any]:
        """Return the fields of :class:`harness.methods.Case` for one neuron and method."""
        return {
            "neuron": neuron,
            "exemplars": self._exemplars(neuron),
            "subject": self._setup.subject,
            "llm": llms.get(method.role or ""),
            "seed": self._seed,
            "llms": llms,
            "effects": self._effects(neuron) if method.needs_effects else (),
            "reader": self._reader,
        }

    def close(self) -> None:
        """Free the subject model, if it was loaded to read new text."""
        self._reader.close()
