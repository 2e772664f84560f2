"""Descriptions from a file, so that published sets of descriptions can compete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.errors import HarnessError
from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Neuron, Sign, Status
from harness.row_files import file_hash, read_rows
from harness.subject import Subject
from harness.validation import validated

FIELDS = ("neuron", "layer", "index", "expert", "sign", "text")
_SIGNS = {
    **dict.fromkeys(("", "+", "1", "+1", "pos", "positive"), Sign.POSITIVE),
    **dict.fromkeys(("-", "-1", "neg", "negative"), Sign.NEGATIVE),
}


class Precomputed(Describer):
    """Looks up a neuron's description in a JSONL, CSV or parquet file.

    The run ends before it starts if a row cannot be read, a description is not text, a neuron has two descriptions, or,
    unless ``gaps`` is ``fail``, a neuron of the run has none.
    """

    extractive = False

    @validated
    def __init__(
        self,
        path: str,
        columns: Mapping[str, str | None],
        where: Mapping[str, Any] | None = None,
        gaps: Literal["refuse", "fail"] = "refuse",
    ) -> None:
        self._columns = {field: column for field, column in columns.items() if column is not None}
        unknown = sorted(set(columns) - set(FIELDS))
        if unknown:
            raise ValueError(f"columns has no field {unknown[0]!r}; it has {', '.join(FIELDS)}")
        named, numbered = "neuron" in self._columns, {"layer", "index"} <= set(self._columns)
        if "text" not in self._columns or named is numbered:
            raise ValueError("columns must name the column of the text, and either neuron, or layer and index")
        if named and {"layer", "index", "expert", "sign"} & set(self._columns):
            raise ValueError("columns.neuron holds layer, index, expert and sign: leave those out")
        self._path, self._where, self._gaps = Path(path).expanduser(), dict(where or {}), gaps

    @property
    def inputs(self) -> str:
        """A hash of the file."""
        return file_hash(self._path)

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Read the file, and check that it describes the neurons."""
        missing = [neuron for neuron in neurons if neuron not in self._texts]
        if not missing:
            return
        what = f"{self._path} describes {len(neurons) - len(missing)} of the run's {len(neurons)} neurons"
        if len(missing) == len(neurons):
            raise HarnessError(f"{what}: it is about another model or other layers, or 'columns' is wrong")
        if self._gaps == "refuse":
            shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise HarnessError(f"{what} and lacks {shown}: choose others, or count them as failures with gaps=fail")

    async def describe(self, case: DescriberCase) -> Draft:
        """Look up the neuron."""
        text = self._texts.get(case.neuron)
        if text is None:
            raise Unanswered(Status.FAILED, f"{self._path.name} does not describe the neuron")
        return Draft(text, f"from {self._path.name}")

    @cached_property
    def _texts(self) -> dict[Neuron, str]:
        """The file's descriptions; rows with an empty text are left out."""
        found: dict[Neuron, str] = {}
        places: dict[Neuron, str] = {}
        for place, row in read_rows(self._path):
            try:
                if any(str(_value(row, column)) != str(value) for column, value in self._where.items()):
                    continue
                given = {field: _value(row, column) for field, column in self._columns.items()}
                neuron = _neuron(given)
                if not isinstance(given["text"], str | None):
                    raise ValueError(
                        f"the description ({self._columns['text']!r}) is not text, but {repr(given['text'])[:40]}"
                    )
            except ValueError as error:
                raise HarnessError(f"{self._path}, {place}: {error}") from error
            if neuron in places:
                raise HarnessError(
                    f"{self._path} describes {neuron} twice ({places[neuron]}, {place}): keep one, or select rows with "
                    "'where'"
                )
            places[neuron] = place
            if given["text"] is not None and given["text"].strip():
                found[neuron] = given["text"]
        if not found:
            raise HarnessError(f"{self._path} holds no description" + (f" where {self._where}" if self._where else ""))
        return found


def _value(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise ValueError(f"no column {column!r}; there are {', '.join(map(str, row))}")
    return row[column]


def _neuron(given: Mapping[str, Any]) -> Neuron:
    """Return the neuron that the values of a row name, by field; raises ValueError."""
    if "neuron" in given:
        return Neuron.named(str(given["neuron"]))
    texts = {field: "" if value is None else str(value).strip() for field, value in given.items()}
    sign = texts.get("sign", "").lower().removesuffix(".0")
    if sign not in _SIGNS:
        raise ValueError(f"{texts['sign'][:40]!r} is not a sign; use positive or negative")
    expert = _number("expert", texts["expert"]) if texts.get("expert") else None
    return Neuron(_number("layer", texts["layer"]), _number("index", texts["index"]), expert, _SIGNS[sign])


def _number(field: str, text: str) -> int:
    """Return a whole number from "17" or "17.0" (columns with missing values are often floats)."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 0 or not number.is_integer():
        raise ValueError(f"{text[:40]!r} is not a valid {field}")
    return int(number)
