"""A planted subject: made from settings instead of downloaded, then used like any other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.planted.corruptions import graded
from harness.planted.settings import Planting
from harness.planted.truth import TRUTH, Truth
from harness.records import Neuron, Side
from harness.subject import Subject
from harness.subject.files import ModelFiles
from harness.validation import validated


class PlantedSubject(Subject):
    """A Llama with one layer whose neurons are known mixtures of known concepts.

    Its checkpoint is made at first use, in a folder named after the settings, and reused.

    Args:
        name: name in reports.
        planting: the fields of :class:`harness.planted.settings.Planting`.
        cache: folder of all planted checkpoints.
        options: further arguments of :class:`harness.subject.Subject`.
    """

    @validated
    def __init__(
        self,
        name: str,
        planting: Planting,
        cache: str,
        **options: Any,
    ) -> None:
        for name in ("shuffled", "sae"):
            if options.get(name):
                raise ValueError(f"{name}: a planted subject has no truth without what was planted; choose another")
        super().__init__(name=name, sources=(), **options)
        self.planting = planting
        self._cache = cache

    @cached_property
    def published(self) -> ModelFiles:
        """The checkpoint's files.

        Raises:
            HarnessError: if the checkpoint cannot be made.
        """
        from harness.planted.checkpoint import checkpoint_of  # imports PyTorch

        folder = checkpoint_of(self.planting, Path(self._cache)).resolve()
        return ModelFiles(str(folder), folder)

    @cached_property
    def truth(self) -> Truth:
        """What was planted, read from the checkpoint's folder."""
        assert self.files.folder is not None
        return Truth.read(self.files.folder / TRUTH)

    def graded(self, neuron: Neuron, among: Sequence[Neuron], *, side: Side, seed: int) -> dict[str, str]:
        """Return :func:`harness.planted.corruptions.graded`; empty if nothing was planted in it on that side."""
        known = self.truth.planted(neuron, side)
        return graded(self.truth, neuron, among, side=side, seed=seed) if known else {}
