"""Read published sets of any format, one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from harness.errors import HarnessError
from harness.formats import parsers
from harness.formats.published import MissingColumn, Published, PublishedWindow, neuron, text, value
from harness.records import Neuron
from harness.row_files import TABLES, Row, files_at, read_rows

#: Formats of descriptions; ``table`` has the columns that the user names.
Format = Literal["table", "neuronpedia", "openai", "transluce", "delphi", "prism", "output_centric"]
#: Formats of exemplars.
ExemplarFormat = Literal["neuronpedia", "openai"]
Entry = TypeVar("Entry", Published, PublishedWindow)
Parse = Callable[[Mapping[str, Any], Path], Iterator[Entry]]


@dataclass(frozen=True)
class _Layout(Generic[Entry]):
    """How the files of a format are read.

    Attributes:
        parse: yields the entries of a row; raises ValueError.
        columns: columns that all its rows have, to recognise it.
        endings: endings of its files.
        rows: yields the rows of a file.
    """

    parse: Parse[Entry]
    columns: Collection[str] = ()
    endings: tuple[str, ...] = TABLES
    rows: Callable[[Path], Iterator[Row]] = read_rows


_DESCRIPTIONS: dict[str, _Layout[Published]] = {
    "neuronpedia": _Layout(parsers.neuronpedia, {"modelId", "layer", "index"}),
    "openai": _Layout(parsers.openai, {"neuron_id", "scored_explanations"}),
    "transluce": _Layout(parsers.transluce, {"layer", "neuron", "polarity", "description"}),
    "delphi": _Layout(parsers.delphi, (), (".txt",), parsers.delphi_rows),
    "prism": _Layout(parsers.prism, {"layer", "unit", "description"}),
    "output_centric": _Layout(parsers.output_centric, {"Layer", "Feature"}),
}
_WINDOWS: dict[str, _Layout[PublishedWindow]] = {
    "neuronpedia": _Layout(parsers.neuronpedia_windows),
    "openai": _Layout(parsers.openai_windows),
}
assert set(_DESCRIPTIONS) == set(get_args(Format)) - {"table"}


def files_of(paths: Sequence[Path], kind: Format) -> list[Path]:
    """Return the files of a set of descriptions; raises HarnessError if a folder has none."""
    return files_at(paths, TABLES if kind == "table" else _DESCRIPTIONS[kind].endings)


def read_descriptions(
    paths: Sequence[Path], kind: Format, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Published]]:
    """Yield the descriptions of a set with their places, such as ``set.jsonl, line 3``, one row in memory at a time.

    Args:
        paths: files, or folders with the files of the format at any depth.
        kind: the format.
        columns: for ``table``: the column of each field (neuron, or layer, index, expert and sign; text).

    Raises:
        HarnessError: if a file cannot be read or a row does not have the format; names the place and the columns found.
    """
    layout = _Layout(partial(_table, columns or {})) if kind == "table" else _DESCRIPTIONS[kind]
    return _read(files_of(paths, kind), layout)


def read_windows(paths: Sequence[Path], kind: ExemplarFormat) -> Iterator[tuple[str, PublishedWindow]]:
    """Yield the windows of text of a set with their places; as :func:`read_descriptions`."""
    return _read(files_at(paths, TABLES), _WINDOWS[kind])


def _read(files: Sequence[Path], layout: _Layout[Entry]) -> Iterator[tuple[str, Entry]]:
    for path in files:
        place = ""
        row: dict[str, Any] = {}
        shown = f"{path.name}, " if len(files) > 1 else ""
        try:
            for place, row in layout.rows(path):
                for entry in layout.parse(row, path):
                    yield f"{shown}{place}", entry
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            where = f"{path}, {place}" if place else str(path)
            other = _recognised(row) if isinstance(error, MissingColumn) else ""
            problem = error if isinstance(error, ValueError) else f"not the layout of the format ({error})"
            raise HarnessError(f"{where}: {problem}{other}") from error
        except OSError as error:
            raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from error


def _recognised(row: Mapping[str, Any]) -> str:
    """Return a hint if the columns of a row are those of a format."""
    names = [name for name, layout in _DESCRIPTIONS.items() if layout.columns and set(layout.columns) <= set(row)]
    return f" (the columns of format={names[0]})" if names else ""


def _table(columns: Mapping[str, str], row: Mapping[str, Any], _path: Path) -> Iterator[Published]:
    given = {field: value(row, column) for field, column in columns.items()}
    found = text(given.pop("text"), columns["text"])
    unit = Neuron.named(str(given["neuron"])) if "neuron" in given else neuron(**given)
    yield Published(unit, found, fields=row)
