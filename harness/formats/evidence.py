"""Exemplars of a published set as evidence, marked as such: windows of another program on another text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.formats.published import PublishedWindow, value
from harness.formats.reading import ExemplarFormat, read_windows
from harness.records import Exemplar, Neuron, Source, Split
from harness.row_files import TABLES, files_at, files_hash


class ImportedEvidence:
    """The windows of a published set as exemplars, each in one of the run's splits.

    A window's document is a hash of its text, because the sets do not name documents. Describers and judges that read
    the same set share no window, but may share a document.

    Args:
        paths: files, or folders with such files at any depth.
        kind: their format.
        where: only windows with these values in these columns are used.
        splits: share of the windows of each split.
        seed: seed of the splits.
    """

    def __init__(
        self,
        paths: Sequence[str],
        kind: ExemplarFormat,
        where: Mapping[str, Any] | None,
        splits: Mapping[Split, float],
        seed: int,
    ) -> None:
        self._paths = [Path(path).expanduser() for path in paths]
        self._kind, self._where, self._splits, self._seed = kind, dict(where or {}), dict(splits), seed
        self._neurons: frozenset[Neuron] = frozenset()
        # Judges remember what they computed from a tuple of exemplars, so a neuron's must stay the same object.
        self._given: dict[tuple[Neuron, frozenset[Split]], tuple[Exemplar, ...]] = {}

    @property
    def inputs(self) -> str:
        """A hash of the files."""
        return files_hash(files_at(self._paths, TABLES))

    @property
    def files(self) -> str:
        """The names of the files or folders, for records."""
        return ", ".join(path.name for path in self._paths)

    def check(self, neurons: Sequence[Neuron]) -> None:
        """Read the windows of some neurons.

        Raises:
            HarnessError: if a window cannot be read, or the set has none of these neurons.
        """
        self._neurons = frozenset(neurons)
        self.__dict__.pop("_windows", None)
        self._given.clear()
        if not self._windows:
            raise HarnessError(
                f"{', '.join(map(str, self._paths))} has no exemplars of the run's neurons"
                + (f" where {self._where}" if self._where else "")
                + ": it is about another model, other layers or latents of a dictionary (where.source)"
            )

    def of(self, neuron: Neuron, splits: Iterable[Split]) -> tuple[Exemplar, ...]:
        """Return a neuron's exemplars of some splits, highest activation first; random ones in the order of the set."""
        wanted = frozenset(splits)
        if (neuron, wanted) not in self._given:
            found = tuple(item for item in self._windows.get(neuron, ()) if item.split in wanted)
            self._given[neuron, wanted] = found
        return self._given[neuron, wanted]

    @cached_property
    def _windows(self) -> dict[Neuron, tuple[Exemplar, ...]]:
        found: dict[Neuron, dict[tuple[object, str], Exemplar]] = {}
        for place, window in read_windows(self._paths, self._kind):
            if window.neuron in self._neurons and self._wants(place, window):
                exemplar = self._exemplar(window, len(found.get(window.neuron, ())))
                found.setdefault(window.neuron, {}).setdefault((exemplar.source, exemplar.document), exemplar)
        return {neuron: tuple(sorted(items.values(), key=_order)) for neuron, items in found.items()}

    def _wants(self, place: str, window: PublishedWindow) -> bool:
        if window.source and "source" not in self._where:
            return False
        try:
            return all(str(value(window.fields, column)) == str(wanted) for column, wanted in self._where.items())
        except ValueError as error:
            raise HarnessError(f"{self.files}, {place}: {error} (where)") from error

    def _exemplar(self, window: PublishedWindow, number: int) -> Exemplar:
        from harness.evidence import split_of  # imports torch, which checking the options does not need

        text = "".join(window.tokens)
        document = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        split = split_of(document, self._splits, self._seed)
        return Exemplar(window.neuron, split, window.kind, document, number, window.tokens, window.activations)


def _order(item: Exemplar) -> tuple[float, int]:
    return (0.0 if item.source is Source.RANDOM else -item.activation, item.window)
