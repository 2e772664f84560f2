"""One way to refuse a value: a single line that names it and the rule it breaks."""

from __future__ import annotations


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise ValueError saying that ``name`` must be ``rule``, not ``value``, unless ``holds``."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, not {value!r}")


def require_count(name: str, value: object, least: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``least``."""
    require(isinstance(value, int) and value >= least, name, value, f"a whole number of at least {least}")
