"""Types for options that pydantic validates, and one line of text for each error.

Use the types in ``pydantic.dataclasses`` for sections of the config, and with :data:`validated` on the ``__init__`` of
a describer or judge. The command line shows :func:`explain` with the path of the option.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, validate_call

T = TypeVar("T")


def _listed(given: Any) -> Any:
    return given if given is None or isinstance(given, list | tuple | set | Mapping) else [given]


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"must not have a value twice: {', '.join(map(str, values))}")
    return values


#: A whole number of at least 1.
Count = Annotated[int, Field(strict=True, ge=1)]
#: A whole number of at least 0.
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
#: Any whole number.
Whole = Annotated[int, Field(strict=True)]
#: A finite number.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
#: A number above 0 and at most 1.
Fraction = Annotated[float, Field(strict=True, gt=0, le=1)]
#: A number from 0 to 1.
FractionOrZero = Annotated[float, Field(strict=True, ge=0, le=1)]
#: A finite number above 0.
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
#: A finite number of at least 0.
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
#: A list; a single value is a list of one.
OneOrMore = Annotated[tuple[T, ...], BeforeValidator(_listed)]
#: Validator of a list that must not have a value twice.
DISTINCT = AfterValidator(_distinct)

#: Config of the ``pydantic.dataclasses``: by default they ignore unknown options, and refuse a number where text is
#: expected, which YAML makes of an unquoted name such as 2026.
STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
#: Config of describers and judges that are ``pydantic.dataclasses`` (with ``eq=False``): options may be any object.
METHOD = ConfigDict(**STRICT, arbitrary_types_allowed=True)
#: Decorator that validates the arguments of a function or an ``__init__`` by their annotations.
validated = validate_call(config=ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True))

#: What an option must be, by the type of pydantic's error; filled in from the error's context.
_RULES = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "finite",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "sequence_str": "a list",
    "is_instance_of": "a {class}",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "too_short": "a list of at least {min_length}",
}
#: Names that pydantic adds to an error's path for the members of a union.
_UNION_MEMBERS = {"int", "float", "str", "bool", "none"}
_UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}


def explain(error: Exception, section: str = "") -> str:
    """Return an error as one line: of a validation error the first problem, as "SECTION.option: rule, not VALUE".

    Args:
        error: a validation error, or any other exception.
        section: path in the config of what was validated.
    """
    if not isinstance(error, ValidationError):
        return _join(section, " ".join(str(error).split()))
    first = error.errors()[0]
    kind: str = first["type"]
    option = ".".join(filter(None, [section, *_path(first["loc"])]))
    if kind in _UNKNOWN:
        return f"{option}: unknown option"
    if kind.startswith("missing"):
        return f"{option}: a value is required"
    if kind == "value_error":  # raised by a validator of ours, which names the value itself
        return _join(option, first["msg"].removeprefix("Value error, "))
    if kind in _RULES:
        rule = _RULES[kind].format(**first.get("ctx", {})).replace("a Sequence", "a list")
        return f"{option}: must be {rule}, not {first['input']!r}"
    return f"{option}: {first['msg'].replace('Input should be', 'must be')}, not {first['input']!r}"


def _path(loc: tuple[Any, ...]) -> list[str]:
    """Return the names in an option's path, without those of union members, such as ``list[int]``."""
    return [str(part) for part in loc if part not in _UNION_MEMBERS and "[" not in str(part)]


def _join(option: str, message: str) -> str:
    return f"{option}: {message}" if option else message
