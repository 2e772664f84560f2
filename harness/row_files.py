"""Rows of the tables that users bring: JSON, CSV or parquet, each row with its position for error messages."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from harness.errors import HarnessError
from harness.validation import explain

RecordT = TypeVar("RecordT", bound=BaseModel)
Row = tuple[str, dict[str, Any]]  # position in the file, such as "line 3", and the values by column
#: Endings of the files that :func:`read_rows` reads. All but parquet may be followed by ``.gz``.
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
#: The longest field of a CSV file, in characters: the limit of the library, which is 131,072 by default.
_LONGEST_FIELD = 2**31 - 1


def ending(path: Path) -> str:
    """Return a file's ending in lower case, without ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def files_at(paths: Sequence[Path], endings: Collection[str]) -> list[Path]:
    """Return the files at some paths: of a folder, all files below it with one of the endings, ordered by path.

    Raises:
        HarnessError: if a folder has none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and ending(file) in endings)
            if not inside:
                raise HarnessError(f"the folder {path} has no file that ends in {', '.join(endings)}")
            found += inside
        else:
            found.append(path)
    return found


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with one of the endings in ``TABLES``.

    The first line of CSV and TSV is the header. A .json file holds one object, or a list of objects.

    Raises:
        HarnessError: if the file cannot be read, has another ending or is damaged; the message names the line.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".json": _json}
    reader = readers.get(ending(path), _json_lines)
    if ending(path) not in TABLES:
        raise HarnessError(f"{path}: use a .json, .jsonl, .csv, .tsv or .parquet file")
    try:
        yield from reader(path)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise HarnessError(f"{path} cannot be read: {reason}") from error


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """Open a UTF-8 file for reading, decompressed if its name ends in ``.gz``."""
    if path.suffix.lower() == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig", newline=newline))
    return path.open(encoding="utf-8-sig", newline=newline)


def read_records(
    path: Path, kind: type[RecordT], columns: Mapping[str, str] | None = None
) -> Iterator[tuple[str, RecordT]]:
    """Yield the rows of a file as objects of ``kind``, each with its position. An empty value counts as missing.

    Args:
        path: as for :func:`read_rows`.
        kind: a model of one row.
        columns: the column of a field, by field, if its name differs.

    Raises:
        HarnessError: as :func:`read_rows`, or if a row does not fit.
    """
    for place, row in read_rows(path):
        renamed = {field: row.pop(column) for field, column in (columns or {}).items() if column in row}
        values = {name: value for name, value in (row | renamed).items() if value not in (None, "")}
        try:
            yield place, kind.model_validate(values)
        except ValidationError as error:
            raise HarnessError(f"{path}, {place}: {explain(error)}") from error


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if ending(path) == ".tsv" else ",", strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise HarnessError(f"{path}, line {reader.line_num}: not as many columns as the header has")
            yield f"line {reader.line_num}", row


def _json_lines(path: Path) -> Iterator[Row]:
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise HarnessError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise HarnessError(f"{path}, line {number}: not a JSON object")
            yield f"line {number}", row


def _json(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        content = json.load(file)
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        if not isinstance(row, dict):
            raise HarnessError(f"{path}, entry {number}: not a JSON object")
        yield f"entry {number}", row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq  # takes long to import, and few runs need it

    number = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


def files_hash(paths: Sequence[Path]) -> str:
    """Return a hash of the names and contents of files, 16 hexadecimal digits; of one file, :func:`file_hash`."""
    if len(paths) == 1:
        return file_hash(paths[0])
    lines = "\n".join(f"{path.name}\x1f{file_hash(path)}" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256.

    Raises:
        HarnessError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from error
