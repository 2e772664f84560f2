"""Objects from entries of the config; what cannot be built is one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.errors import HarnessError
from harness.validation import explain

T = TypeVar("T")


def plain(composed: DictConfig) -> dict[str, Any]:
    """Return the resolved config as plain Python types.

    Raises:
        HarnessError: if an option that has no default was not set.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise HarnessError(
            f"{', '.join(missing)} must be set: add {' '.join(f'{name}=...' for name in missing)}; "
            "--cfg job with the same options explains each of them"
        )
    config: dict[str, Any] = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return config


def section(kind: type[T], config: Mapping[str, Any], name: str) -> T:
    """Return a section of the config as a dataclass.

    Raises:
        HarnessError: naming the option that is not valid.
    """
    try:
        return kind(**config[name])
    except (TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise HarnessError(explain(error, name).replace(f"{kind.__name__}.__init__() ", "")) from error


def build_group(config: Mapping[str, Any], group: str, kind: Any) -> dict[str, Any]:
    """Return the objects of a group's entries by name; an entry that is null is left out."""
    entries = (config.get(group) or {}).items()
    return {name: build(entry, f"{group}.{name}", kind) for name, entry in entries if entry}


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
        raise HarnessError(f"the config entry {name} has no _target_ that names the class to build")
    try:
        # "all": mappings and lists arrive as plain Python types.
        built = instantiate(entry, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise HarnessError(explain(cause, name)) from error
    if not isinstance(built, kind):
        raise HarnessError(f"{name}: {entry['_target_']} is not a {getattr(kind, '__name__', str(kind))}")
    return built
