"""Measured tensors as numbers for records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from torch import Tensor


def rounded(values: Tensor, *, undefined: bool = False) -> Any:
    """Return a number (for a scalar) or a tuple, with five decimals.

    Args:
        values: the values.
        undefined: whether a value may be undefined (NaN), which becomes None.

    Raises:
        HarnessError: if a value that is always defined is NaN.
    """
    numbers = tuple(None if math.isnan(value) else round(value, 5) for value in values.flatten().tolist())
    if not undefined and None in numbers:
        raise HarnessError("a diagnostic of the decomposition is not a number: are weights of the model damaged?")
    return numbers if values.ndim else numbers[0]
