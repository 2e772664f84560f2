"""Descriptions from files: every format, and errors for duplicates and gaps."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.describer_cases import NOWHERE, case, describe, failure
from support.errors import told

from describers.precomputed import Precomputed
from harness.records import Neuron, Sign, Status

COLUMNS = {"text": "explanation", "layer": "layer", "index": "neuron"}
ROWS = [
    {"layer": 3, "neuron": 17, "explanation": "time limits, “until”"},
    {"layer": 3, "neuron": 5, "explanation": "the sea,\nships"},
    {"layer": 0, "neuron": 0, "explanation": 'quotes "here"'},
]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as the path's ending says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", "utf-8")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_descriptions_come_from_a_file_of_any_kind(tmp_path: Path, ending: str) -> None:
    method = Precomputed(written(tmp_path / f"set.{ending}", ROWS), {**COLUMNS, "neuron": None, "expert": None})
    neurons = [Neuron(row["layer"], row["neuron"]) for row in ROWS]  # type: ignore[arg-type]
    method.check(neurons, NOWHERE)
    for neuron, row in zip(neurons, ROWS, strict=True):
        draft = describe(method, case(neuron=neuron))
        assert (draft.text, draft.detail) == (row["explanation"], f"from set.{ending}")
    assert (method.control, method.role, method.extractive) == (False, None, False)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_experts_and_signs_have_columns_of_their_own(tmp_path: Path, ending: str) -> None:
    rows = [
        {"l": 1, "n": 2, "e": 0, "s": "+", "t": "a"},
        {"l": 1, "n": 2, "e": 0, "s": "-1", "t": "b"},
        {"l": 1, "n": 2, "e": None, "s": "Negative", "t": "c"},
        {"l": 1, "n": 2, "e": None, "s": None, "t": "d"},
    ]
    columns = {"layer": "l", "index": "n", "expert": "e", "sign": "s", "text": "t"}
    method = Precomputed(written(tmp_path / f"set.{ending}", rows), columns)
    negative = Sign.NEGATIVE
    wanted = [Neuron(1, 2, 0), Neuron(1, 2, 0, negative), Neuron(1, 2, None, negative), Neuron(1, 2)]
    method.check(wanted, NOWHERE)
    assert "".join(describe(method, case(neuron=neuron)).text for neuron in wanted) == "abcd"


def test_neurons_may_go_by_name_and_a_file_may_hold_several_methods(tmp_path: Path) -> None:
    wanted = [Neuron(3, 17), Neuron(3, 17, sign=Sign.NEGATIVE), Neuron(3, 17, 2)]
    rows = [
        {"name": str(neuron), "method": method, "text": f"{neuron} by {method}"}
        for neuron in wanted
        for method in ("maxact", "human")
    ]
    path = written(tmp_path / "set.csv", rows)
    method = Precomputed(path, {"neuron": "name", "text": "text"}, where={"method": "human"})
    method.check(wanted, NOWHERE)
    assert [describe(method, case(neuron=neuron)).text for neuron in wanted] == [
        f"{neuron} by human" for neuron in wanted
    ]
    told(
        lambda: Precomputed(path, {"neuron": "name", "text": "text"}).check(wanted, NOWHERE),
        *["describes L3N17 twice (line 2, line 3)", "where"],
    )
    told(
        lambda: Precomputed(path, {"neuron": "name", "text": "text"}, where={"method": "mine"}).check(wanted, NOWHERE),
        "no description where {'method': 'mine'}",
    )


def test_gaps_end_the_run_or_are_counted_failures(tmp_path: Path) -> None:
    rows = [*ROWS, {"layer": 9, "neuron": 9, "explanation": "  "}]
    path = written(tmp_path / "set.jsonl", rows)
    wanted = [Neuron(3, 17), Neuron(3, 18), Neuron(9, 9), Neuron(3, 17, sign=Sign.NEGATIVE)]
    told(
        lambda: Precomputed(path, COLUMNS).check(wanted, NOWHERE),
        *["describes 1 of the run's 4 neurons", "L3N18, L9N9, L3N17-", "gaps=fail"],
    )
    lenient = Precomputed(path, COLUMNS, gaps="fail")
    lenient.check(wanted, NOWHERE)
    for neuron in wanted[1:]:
        error = failure(lenient, case(neuron=neuron))
        assert (error.status, error.detail) == (Status.FAILED, "set.jsonl does not describe the neuron")
    # A file that describes none of them is the wrong one.
    told(lambda: lenient.check(wanted[1:], NOWHERE), "another model")


def test_another_file_of_the_same_name_is_another_input(tmp_path: Path) -> None:
    one = Precomputed(written(tmp_path / "set.csv", ROWS), COLUMNS).inputs
    assert Precomputed(written(tmp_path / "set.csv", ROWS), COLUMNS).inputs == one
    assert Precomputed(written(tmp_path / "set.csv", ROWS[:2]), COLUMNS).inputs != one


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("set.jsonl", '{"layer": 3, "neuron": 1, "explanation": "a"}\nnonsense\n', ["line 2: not JSON"]),
        ("set.jsonl", "[1, 2]\n", ["line 1: not a JSON object"]),
        ("set.jsonl", '{"layer": 3, "explanation": "a"}', ["line 1: no column 'neuron'", "layer, explanation"]),
        ("set.jsonl", '{"layer": -3, "neuron": 1, "explanation": "a"}', ["line 1: '-3' is not a valid layer"]),
        ("set.jsonl", '{"layer": true, "neuron": 1, "explanation": "a"}', ["line 1: 'True' is not a valid layer"]),
        (
            "set.jsonl",
            '{"layer": 3, "neuron": 1, "explanation": ["a"]}',
            ["line 1: ", "not text, but ['a']"],
        ),
        ("set.jsonl", '{"layer": 3, "neuron": 1, "explanation": {"a": 1}}', ["line 1: ", "not text, but {'a': 1}"]),
        ("set.jsonl", '{"layer": 3, "neuron": 1, "explanation": 5}', ["line 1: ", "not text, but 5"]),
        ("set.csv", "layer,neuron,explanation\n3,1.5,a\n", ["line 2: '1.5' is not a valid index"]),
        ("set.csv", "layer,neuron,explanation\n3,1\n", ["line 2: not as many columns"]),
        ("set.csv", "layer,neuron,explanation\n3,1,a,b\n", ["line 2: not as many columns"]),
        ("set.csv", "", ["holds no description"]),
        ("set.csv", 'layer,neuron,explanation\n3,1,"a', ["cannot be read"]),
        ("set.csv", b"layer,neuron,explanation\n3,1,\xff\xfe\n", ["cannot be read"]),
        ("set.parquet", "no table", ["cannot be read"]),
        ("set.xlsx", "", [".jsonl, .csv, .tsv or .parquet"]),
        ("set.csv", None, ["cannot be read", "No such file"]),
    ],
)
def test_a_file_that_is_not_plain_is_refused_with_the_place(
    tmp_path: Path, name: str, content: str | bytes | None, words: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    told(lambda: Precomputed(str(path), COLUMNS).check([Neuron(3, 1)], NOWHERE), str(path), *words)


@pytest.mark.parametrize("row", [{"name": "layer 3"}, {"name": "L3N17x"}, {"name": None}])
def test_what_is_no_name_of_a_neuron(tmp_path: Path, row: dict[str, Any]) -> None:
    path = written(tmp_path / "set.jsonl", [{**row, "text": "a"}])
    told(
        lambda: Precomputed(path, {"neuron": "name", "text": "text"}).check([Neuron(3, 17)], NOWHERE),
        "line 1",
        "such as L3N17",
    )


def test_what_is_no_sign(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", [{**ROWS[0], "sign": "up"}])
    told(
        lambda: Precomputed(path, {**COLUMNS, "sign": "sign"}).check([Neuron(3, 17)], NOWHERE),
        "line 1",
        "'up' is not a sign",
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": "t"}, "either neuron, or layer and index"),
        ({"text": "t", "layer": "l"}, "either neuron, or layer and index"),
        ({"layer": "l", "index": "n"}, "column of the text"),
        ({"text": "t", "neuron": "n", "layer": "l", "index": "i"}, "either neuron, or layer and index"),
        ({"text": "t", "neuron": "n", "sign": "s"}, "leave those out"),
        ({"text": "t", "neuron": "n", "unit": "s"}, "no field 'unit'"),
    ],
)
def test_columns_have_to_name_a_neuron_in_one_way(columns: dict[str, str | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Precomputed("set.csv", columns)
    with pytest.raises(ValueError, match="ignore"):
        Precomputed("set.csv", {**COLUMNS}, gaps="ignore")
