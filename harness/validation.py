"""Types for options that pydantic validates, and one line for what it refuses.

Use them in ``pydantic.dataclasses`` for sections of the config and with :data:`validated` on the ``__init__`` of a
describer or judge. The command line shows :func:`explain` with the path of the option before it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError, validate_call

#: A whole number of at least 1.
Count = Annotated[int, Field(strict=True, ge=1)]
#: A whole number of at least 0.
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
#: A number above 0 and at most 1.
Fraction = Annotated[float, Field(gt=0, le=1)]
#: A number from 0 to 1.
FractionOrZero = Annotated[float, Field(ge=0, le=1)]
#: A finite number above 0.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: A finite number of at least 0.
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

#: Decorator that validates the arguments of a function or an ``__init__`` by their annotations.
validated = validate_call(config=ConfigDict(arbitrary_types_allowed=True))


def explain(error: Exception) -> str:
    """Return the first problem of a validation error as one line: option, rule and the value given."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # raised by a validator of ours, which names the value itself
        return f"{option}: {message}" if option else message
    return f"{option}: {message[0].lower()}{message[1:]}, not {first['input']!r}"
