"""The names of the solvers: those of this package, and functions of other packages by their dotted name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

#: Solvers of this package. Any other name is "module.function".
SOLVERS = ("geodesic", "adamw")


def import_solver(name: str) -> Callable[..., Any]:
    """Import a function by its dotted name; :class:`harness.decomposition.custom.Decompose` is its signature.

    Raises:
        ValueError: in one line, if the function does not exist.
    """
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"solver must be 'geodesic', 'adamw' or a function as 'module.name', not {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"solver={name} cannot be imported ({error}): is its folder on PYTHONPATH?") from error
    if not callable(found):
        raise ValueError(f"solver={name} is not a function")
    function: Callable[..., Any] = found
    return function
