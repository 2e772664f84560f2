"""Nested configs as a flat mapping with dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested config as a mapping of dotted names to values; lists and empty mappings are values.

    Args:
        value: the config, or a value inside it.
        prefix: the name of the value; empty for the config itself.
    """
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        name: item
        for key, inner in value.items()
        for name, item in flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
