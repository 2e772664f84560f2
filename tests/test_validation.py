"""Errors of options as one line: path, rule and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, ValidationError
from pydantic.dataclasses import dataclass

from harness.validation import (
    DISTINCT,
    STRICT,
    Count,
    CountOrZero,
    Fraction,
    OneOrMore,
    Positive,
    explain,
    validated,
)


def _even(value: int) -> int:
    if value % 2:
        raise ValueError(f"must be even, not {value}")
    return value


@dataclass(frozen=True, config=STRICT)
class Inner:
    count: Count = 1


@dataclass(frozen=True, config=STRICT)
class Section:
    count: Count
    share: Fraction = 1.0
    rate: Positive = 1.0
    kind: Literal["a", "b"] = "a"
    items: Sequence[int | str] | None = None
    even: Annotated[int, AfterValidator(_even)] = 0
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.count > 5 and self.kind == "b":
            raise ValueError("count and kind do not fit")


class Method:
    @validated
    def __init__(self, count: Count = 3, kinds: Sequence[str] = ()) -> None:
        self.count, self.kinds = count, kinds


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "section.count: a value is required"),
        ({"count": 0}, "section.count: must be at least 1, not 0"),
        ({"count": True}, "section.count: must be a whole number, not True"),
        ({"count": "2"}, "section.count: must be a whole number, not '2'"),
        ({"share": 1.5}, "section.share: must be at most 1, not 1.5"),
        ({"share": 0}, "section.share: must be above 0, not 0"),
        ({"rate": float("inf")}, "section.rate: must be finite, not inf"),
        ({"rate": "fast"}, "section.rate: must be a number, not 'fast'"),
        ({"rate": True}, "section.rate: must be a number, not True"),
        ({"kind": "c"}, "section.kind: must be 'a' or 'b', not 'c'"),
        ({"items": [[1]]}, "section.items.0: must be a whole number, not [1]"),
        ({"even": 3}, "section.even: must be even, not 3"),
        ({"inner": {"count": 0}}, "section.inner.count: must be at least 1, not 0"),
        ({"inner": {"counts": 2}}, "section.inner.counts: unknown option"),
        ({"counts": 2}, "section.counts: unknown option"),
        ({"count": 6, "kind": "b"}, "section: count and kind do not fit"),
    ],
)
def test_one_line_names_option_rule_and_value(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Section(**({"count": 1} | options if options else {}))
    assert explain(caught.value, "section") == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"count": 0}, "judges.mine.count: must be at least 1, not 0"),
        ({"kind": "c"}, "judges.mine.kind: unknown option"),
        ({"kinds": 5}, "judges.mine.kinds: must be a list, not 5"),
        ({"kinds": "abc"}, "judges.mine.kinds: must be a list, not 'abc'"),
    ],
)
def test_arguments_of_a_method_are_validated(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Method(**options)
    assert explain(caught.value, "judges.mine") == line
    assert Method().count == 3


@dataclass(frozen=True, config=STRICT)
class Listing:
    layers: Annotated[OneOrMore[CountOrZero], DISTINCT] | None = None
    name: str = ""


def test_a_single_value_is_a_list_of_one_and_a_number_is_a_name() -> None:
    assert Listing(layers=2, name=2026) == Listing(layers=(2,), name="2026")  # type: ignore[arg-type]
    assert Listing(layers=[3, 1]).layers == (3, 1)  # type: ignore[arg-type]
    assert Listing(layers=None).layers is None


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        (["2"], "neurons.layers.0: must be a whole number, not '2'"),
        (2.5, "neurons.layers.0: must be a whole number, not 2.5"),
        ({"a": 1}, "neurons.layers: must be a list, not {'a': 1}"),
        ([3, 3], "neurons.layers: must not have a value twice: 3, 3"),
    ],
)
def test_lists_are_validated_item_by_item(layers: Any, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Listing(layers=layers)
    assert explain(caught.value, "neurons") == line


def test_other_errors_keep_their_message_on_one_line() -> None:
    assert explain(OSError("no\n  such file"), "corpus") == "corpus: no such file"
    assert explain(OSError("no such file")) == "no such file"
