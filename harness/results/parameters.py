"""The options in which the configurations of several runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.flat import flatten

#: Sections of a config that differ between runs without being experimental parameters.
_NOT_VARIED = ("name", "folder", "tracking", "sweep", "executor", "serving")
#: Sections with one entry for each method of the run, under its name.
_GROUPS = ("describers", "judges")


@dataclass(frozen=True)
class Parameter:
    """An option in which runs differ.

    Attributes:
        name: its dotted name in the config; ``describers`` and ``judges`` are the lists of their names.
        values: its value in each run, in the order of the runs; None if a run does not have it.
    """

    name: str
    values: tuple[Any, ...]

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def spans_decades(self) -> bool:
        """Whether the values are positive numbers and the largest is at least ten times the smallest."""
        return self.numeric and min(self.values) > 0 and max(self.values) >= 10 * min(self.values)

    @property
    def levels(self) -> tuple[Any, ...]:
        """The distinct values: numbers sorted, others in the order of the runs, None last."""
        found = list({_key(value): value for value in self.values}.values())
        return tuple(sorted(found)) if self.numeric else tuple(sorted(found, key=lambda value: value is None))

    @property
    def short(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]


def swept(manifests: Sequence[Mapping[str, Any]]) -> tuple[Parameter, ...]:
    """Return the options in which runs differ, by name, from their manifests.

    Two kinds are left out because they add no information: options that only some runs have and that divide the runs
    like options that all runs have (``adamw.learning_rate`` if the solver varies), and options of methods that equal
    another option in every run, because they are interpolated from it.
    """
    flat = [_flat(_settings(manifest)) for manifest in manifests]
    names = sorted({name for one in flat for name in one})
    found = [Parameter(name, tuple(one.get(name) for one in flat)) for name in names]
    varied = [one for one in found if len(set(map(_key, one.values))) > 1]
    everywhere = [one for one in varied if all(one.name in values for values in flat)]
    partitions = {_partition([one]) for one in everywhere} | {_partition(everywhere)}
    kept = [one for one in varied if one in everywhere or _partition([one]) not in partitions]
    settings = {_key(one.values) for one in kept if not _of_method(one)}
    return tuple(one for one in kept if not (_of_method(one) and _key(one.values) in settings))


def label(parameters: Sequence[Parameter], run: int) -> str:
    """Return the parameters of one run as text, such as ``kurtosis_weight=0.1, num_channels=5``."""
    names = [one.short for one in parameters]
    return ", ".join(
        f"{one.short if names.count(one.short) == 1 else one.name}={shown(one.values[run])}" for one in parameters
    )


def shown(value: Any) -> str:
    """Return a value as text; a float with six significant digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _of_method(parameter: Parameter) -> bool:
    return parameter.name.split(".")[0] in _GROUPS


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config = manifest.get("config")
    return {name: value for name, value in dict(config or {}).items() if name not in _NOT_VARIED}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted names and values, and the names of the methods as one value."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name in _GROUPS and isinstance(value, Mapping):
            found[name] = sorted(value)
        found |= flatten(value, name)
    return found


def _partition(parameters: Sequence[Parameter]) -> tuple[int, ...]:
    """Return for each run the index of the first run with the same values."""
    if not parameters:
        return ()
    rows = list(zip(*(map(_key, one.values) for one in parameters), strict=True))
    return tuple(rows.index(row) for row in rows)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
