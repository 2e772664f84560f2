"""Rows of the tables that users bring: JSON lines, CSV or parquet, each row with its position for error messages."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import HarnessError
from harness.validation import explain

RecordT = TypeVar("RecordT", bound=BaseModel)
Row = tuple[str, dict[str, Any]]  # position in the file, such as "line 3", and the values by column


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .ndjson, .csv, .tsv or .parquet file; the first line of CSV and TSV is the header.

    Raises:
        HarnessError: if the file cannot be read, has another ending or is damaged; the message names the line.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise HarnessError(f"{path}: use a .jsonl, .csv, .tsv or .parquet file")
    try:
        yield from reader(path)
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise HarnessError(f"{path} cannot be read: {reason}") from error


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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise HarnessError(f"{path}, line {reader.line_num}: not as many columns as the header has")
            yield f"line {reader.line_num}", row


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
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


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq  # takes long to import, and few runs need it

    number = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row


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
