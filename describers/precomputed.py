"""Descriptions that somebody else made, from a file: published description sets compete with those made here."""

from __future__ import annotations

import csv
import enum
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Neuron, Sign, Status
from harness.subject import Subject

FIELDS = ("neuron", "layer", "index", "expert", "sign", "text")
_SIGNS = {
    **dict.fromkeys(("", "+", "1", "+1", "pos", "positive"), Sign.POSITIVE),
    **dict.fromkeys(("-", "-1", "neg", "negative"), Sign.NEGATIVE),
}
Row = tuple[str, Mapping[str, Any]]  # where it stands, for messages, and its columns


class Gaps(enum.StrEnum):
    """What becomes of neurons that the file does not describe."""

    REFUSE = "refuse"  # the run does not start
    FAIL = "fail"  # they are failures, and counted as such


class Precomputed(Describer):
    """Looks a neuron's description up in a JSONL, CSV or parquet file.

    What a file says has to be plain: a row that cannot be read, two descriptions of one neuron, or (unless ``gaps`` is
    ``fail``) a neuron of the run without one ends the run before it starts.

    Args:
        path: the file; its ending says how to read it (.jsonl, .csv, .tsv, .parquet).
        columns: which column holds what: ``text``, and either ``neuron`` (names such as L3N17, L3E2N17, L3N17-) or
            ``layer`` and ``index``, with ``expert`` and ``sign`` if the file has them. Without a sign, a row is about
            the positive one.
        where: only rows that have these values in these columns, for files that hold several methods.
        gaps: ``refuse`` or ``fail``.
    """

    extractive = False

    def __init__(
        self,
        path: str,
        columns: Mapping[str, str | None],
        where: Mapping[str, Any] | None = None,
        gaps: str = "refuse",
    ) -> None:
        self._columns = {field: column for field, column in columns.items() if column is not None}
        unknown = sorted(set(columns) - set(FIELDS))
        if unknown:
            raise ValueError(f"columns has no field {unknown[0]!r}; it has {', '.join(FIELDS)}")
        named, numbered = "neuron" in self._columns, {"layer", "index"} <= set(self._columns)
        if "text" not in self._columns or named is numbered:
            raise ValueError("columns must say where the text is, and either neuron, or layer and index")
        if named and {"layer", "index", "expert", "sign"} & set(self._columns):
            raise ValueError("columns.neuron holds layer, index, expert and sign: leave those out")
        self._path, self._where, self._gaps = Path(path).expanduser(), dict(where or {}), Gaps(gaps)

    @property
    def inputs(self) -> str:
        """A hash of the file."""
        return self._content[1]

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Read the file, and see whether it describes all neurons."""
        found = self._content[0]
        missing = [neuron for neuron in neurons if neuron not in found]
        if not missing:
            return
        what = f"{self._path} describes {len(neurons) - len(missing)} of the run's {len(neurons)} neurons"
        if len(missing) == len(neurons):
            raise HarnessError(f"{what}: it is of another model or other layers, or the columns are not what they seem")
        if self._gaps is Gaps.REFUSE:
            shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise HarnessError(f"{what} and lacks {shown}: choose others, or count them as failures with gaps=fail")

    async def describe(self, case: DescriberCase) -> Draft:
        """Look the neuron up."""
        text = self._content[0].get(case.neuron)
        if text is None:
            raise Unanswered(Status.FAILED, f"{self._path.name} does not describe the neuron")
        return Draft(text, f"from {self._path.name}")

    @cached_property
    def _content(self) -> tuple[dict[Neuron, str], str]:
        """The file's descriptions and its hash, read once; a row with an empty text describes nothing."""
        found: dict[Neuron, str] = {}
        homes: dict[Neuron, str] = {}
        try:
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            for place, row in _rows(self._path):
                if any(str(self._value(row, column, place)) != str(value) for column, value in self._where.items()):
                    continue
                neuron = self._neuron(row, place)
                if neuron in homes:
                    raise HarnessError(
                        f"{self._path} describes {neuron} twice ({homes[neuron]}, {place}): keep one, or say with "
                        "'where' which rows are meant"
                    )
                homes[neuron] = place
                text = self._value(row, self._columns["text"], place)
                if text is not None and str(text).strip():
                    found[neuron] = str(text)
        except (OSError, ValueError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            raise HarnessError(f"{self._path} cannot be read: {reason}") from error
        if not found:
            raise HarnessError(f"{self._path} holds no description" + (f" where {self._where}" if self._where else ""))
        return found, digest

    def _neuron(self, row: Mapping[str, Any], place: str) -> Neuron:
        given = {field: self._value(row, column, place) for field, column in self._columns.items() if field != "text"}
        if "neuron" in given:
            try:
                return Neuron.named(str(given["neuron"]))
            except ValueError as error:
                raise HarnessError(f"{self._path}, {place}: {error}") from error
        expert = given.get("expert")
        return Neuron(
            self._number("layer", given["layer"], place),
            self._number("index", given["index"], place),
            None if expert is None or str(expert).strip() == "" else self._number("expert", expert, place),
            self._sign(given.get("sign"), place),
        )

    def _number(self, field: str, value: Any, place: str) -> int:
        """Return a whole number, however a table holds it: 17, "17" or 17.0 (columns with gaps are often floats)."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if isinstance(value, bool) or number < 0 or not number.is_integer():
            raise HarnessError(f"{self._path}, {place}: {str(value)[:40]!r} is no {field}")
        return int(number)

    def _sign(self, value: Any, place: str) -> Sign:
        name = "" if value is None else str(value).strip().lower().removesuffix(".0")
        if name not in _SIGNS:
            raise HarnessError(f"{self._path}, {place}: {str(value)[:40]!r} is no sign; use positive or negative")
        return _SIGNS[name]

    def _value(self, row: Mapping[str, Any], column: str, place: str) -> Any:
        if column not in row:
            raise HarnessError(f"{self._path}, {place}: no column {column!r}; there are {', '.join(map(str, row))}")
        return row[column]


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, each with where it stands.

    Raises:
        HarnessError: if the file's ending is none of those that can be read, or a line is no JSON object.
        ValueError: if the file is damaged.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow.parquet as pq

        number = 0
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    elif kind in {".csv", ".tsv"}:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise HarnessError(f"{path}, line {reader.line_num}: not as many columns as the header has")
                yield f"line {reader.line_num}", row
    elif kind in {".jsonl", ".ndjson"}:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise HarnessError(f"{path}, line {number}: no JSON ({error})") from error
                if not isinstance(row, dict):
                    raise HarnessError(f"{path}, line {number}: no JSON object")
                yield f"line {number}", row
    else:
        raise HarnessError(f"{path}: descriptions are read from .jsonl, .csv, .tsv or .parquet")
