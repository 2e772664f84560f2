"""Objects from entries of the config; what cannot be built is one line of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from harness.errors import HarnessError
from harness.validation import explain

T = TypeVar("T")
#: The path of an object inside an entry, in Hydra's message.
_INNER = re.compile(r"^full_key: (\S+)$", re.MULTILINE)


def plain(composed: DictConfig) -> dict[str, Any]:
    """Return the resolved config as plain Python types.

    Raises:
        HarnessError: if an option that has no default was not set.
    """
    try:
        config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        missing = sorted(OmegaConf.missing_keys(composed))
        raise HarnessError(
            f"{', '.join(missing)} must be set: add {' '.join(f'{name}=...' for name in missing)}; "
            "--cfg job with the same options explains each of them"
        ) from error
    return config


def validate(kind: type[T], options: Any, name: str) -> T:
    """Return the options of a section as a dataclass.

    Args:
        kind: a pydantic dataclass.
        options: a mapping, or the instance.
        name: the section's path in the config, for messages.

    Raises:
        HarnessError: naming the option that is not valid, what it must be, and what it is.
    """
    if not isinstance(options, Mapping):
        raise HarnessError(f"{name}: must be a mapping of options, not {options!r}")
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise HarnessError(explain(error, name).replace(f"{kind.__name__}.__init__() ", "")) from error


def build_group(config: Mapping[str, Any], group: str, kind: Any) -> dict[str, Any]:
    """Return the objects of a group's entries by name; an entry that is null is left out."""
    entries = config.get(group) or {}
    if not isinstance(entries, Mapping):
        raise HarnessError(f"{group}: must be a mapping of names to entries, not {entries!r}")
    return {name: build(entry, f"{group}.{name}", kind) for name, entry in entries.items() if entry not in (None, {})}


def build(entry: Any, name: str, kind: Any) -> Any:
    """Return the object that an entry's ``_target_`` describes.

    Args:
        entry: the entry.
        name: its path in the config.
        kind: the class, or union of classes, that it must be an instance of.

    Raises:
        HarnessError: if it cannot be built.
    """
    if not isinstance(entry, Mapping) or "_target_" not in entry:
        raise HarnessError(f"{name}: must be a mapping with a _target_ that names the class to build, not {entry!r}")
    try:
        # "all": mappings and lists arrive as plain Python types.
        built = instantiate(entry, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        inner = _INNER.search(str(error))
        path = f"{name}.{inner[1]}" if inner else name
        named = isinstance(cause, HarnessError) and str(cause).startswith(f"{path}.")
        raise HarnessError(explain(cause, "" if named else path)) from error
    if not isinstance(built, kind):
        raise HarnessError(f"{name}: {entry['_target_']} is not a {getattr(kind, '__name__', str(kind))}")
    return built
