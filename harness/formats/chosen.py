"""One description per neuron from a published set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.errors import HarnessError
from harness.formats.published import Published, value
from harness.formats.reading import Format, files_of, read_descriptions
from harness.records import Neuron
from harness.row_files import files_hash

#: What happens if a neuron has several descriptions.
Several = Literal["refuse", "first", "best", "join", "keep"]
FIELDS = ("neuron", "layer", "index", "expert", "sign", "text")


@dataclass(frozen=True)
class Chosen:
    """The description of a neuron.

    Attributes:
        text: the description.
        origin: where it comes from, and who made it.
        score: the set's own score of it; None without one, and for several descriptions together.
        of: number of descriptions that the set has of the neuron.
        parts: these descriptions, if all are kept.
    """

    text: str
    origin: str
    score: float | None
    of: int
    parts: tuple[str, ...] = ()


class DescriptionSet:
    """A published set of descriptions, with at most one description per neuron.

    Args:
        paths: files, or folders with the files of the format at any depth.
        kind: the format.
        columns: for the format ``table``: the column of each field; None for fields without a column.
        where: only entries with these values in these columns are used.
        several: what to do with several descriptions of a neuron.

    Raises:
        ValueError: if the columns do not name a neuron and its description.
    """

    def __init__(
        self,
        paths: Sequence[str],
        kind: Format,
        columns: Mapping[str, str | None] | None,
        where: Mapping[str, Any] | None,
        several: Several,
    ) -> None:
        self._columns = {field: column for field, column in (columns or {}).items() if column is not None}
        if kind == "table":
            _check_columns(columns or {}, self._columns)
        self._paths = [Path(path).expanduser() for path in paths]
        self._kind, self._where, self._several = kind, dict(where or {}), several

    @property
    def name(self) -> str:
        """The paths of the set, for messages."""
        return ", ".join(map(str, self._paths))

    @property
    def files(self) -> str:
        """The names of the files or folders, for records."""
        return ", ".join(path.name for path in self._paths)

    @property
    def inputs(self) -> str:
        """A hash of the files."""
        return files_hash(files_of(self._paths, self._kind))

    @cached_property
    def chosen(self) -> dict[Neuron, Chosen]:
        """The description of each neuron; entries with an empty text are left out.

        Raises:
            HarnessError: if an entry cannot be read, a neuron has several descriptions and they are refused, the set
                has none, or it describes latents of a dictionary that ``where`` does not name.
        """
        groups: dict[Neuron, list[tuple[str, Published]]] = {}
        unnamed: dict[str, None] = {}
        for place, entry in read_descriptions(self._paths, self._kind, self._columns):
            if not entry.text or not self._wants(place, entry):
                continue
            if entry.source and "source" not in self._where:
                unnamed[entry.source] = None
            else:
                groups.setdefault(entry.neuron, []).append((place, dataclasses.replace(entry, fields={})))
        if unnamed and not groups:
            raise HarnessError(
                f"{self.name} describes latents of {', '.join(list(unnamed)[:5])}, not MLP neurons: if the run's "
                f"neurons are these latents, name them with where={{source: {next(iter(unnamed))}}}"
            )
        if not groups:
            raise HarnessError(f"{self.name} holds no description" + (f" where {self._where}" if self._where else ""))
        return {neuron: self._choose(neuron, entries) for neuron, entries in groups.items()}

    def _wants(self, place: str, entry: Published) -> bool:
        try:
            return all(str(value(entry.fields, column)) == str(wanted) for column, wanted in self._where.items())
        except ValueError as error:
            raise HarnessError(f"{self.name}, {place}: {error} (where)") from error

    def _choose(self, neuron: Neuron, entries: Sequence[tuple[str, Published]]) -> Chosen:
        if len(entries) > 1 and self._several == "refuse":
            places = ", ".join(place for place, _ in entries[:2])
            authors = list(dict.fromkeys(entry.author for _, entry in entries if entry.author))
            by = f"; by {', '.join(authors[:5])}" if authors else ""
            times = "twice" if len(entries) == 2 else f"{len(entries)} times"
            raise HarnessError(
                f"{self.name} describes {neuron} {times} ({places}{by}): select one with 'where', or set several to "
                "first, best, join or keep"
            )
        entry = entries[0][1]
        if self._several == "best":
            without = [place for place, entry in entries if entry.score is None]
            if without and len(entries) > 1:
                raise HarnessError(f"{self.name}, {without[0]}: several=best needs scores, and there is none")
            entry = max((entry for _, entry in entries), key=lambda one: one.score or 0.0)
        if self._several in ("join", "keep") and len(entries) > 1:
            texts = tuple(dict.fromkeys(entry.text.strip().rstrip(".;") for _, entry in entries))
            origin, parts = self._origin(f"{len(entries)} descriptions"), texts if self._several == "keep" else ()
            return Chosen("; ".join(texts), origin, None, len(entries), parts)
        about = [f"by {entry.author}"] if entry.author else []
        if entry.score is not None:
            about.append(f"score in the set {entry.score:.3g}")
        if len(entries) > 1:
            about.append(f"the {self._several} of {len(entries)}")
        return Chosen(entry.text, self._origin(*about), entry.score, len(entries))

    def _origin(self, *about: str) -> str:
        return ", ".join([f"from {self.files}", *about])


def _check_columns(columns: Mapping[str, str | None], given: Mapping[str, str]) -> None:
    unknown = sorted(set(columns) - set(FIELDS))
    if unknown:
        raise ValueError(f"columns has no field {unknown[0]!r}; it has {', '.join(FIELDS)}")
    named, numbered = "neuron" in given, {"layer", "index"} <= set(given)
    if "text" not in given or named is numbered:
        raise ValueError("columns must name the column of the text, and either neuron, or layer and index")
    if named and {"layer", "index", "expert", "sign"} & set(given):
        raise ValueError("columns.neuron holds layer, index, expert and sign: leave those out")
