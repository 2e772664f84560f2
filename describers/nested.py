"""Describers that contain other methods: naming them, and passing a case on to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from harness.methods import Describer, DescriberCase, Method
from harness.records import VectorKind

MethodT = TypeVar("MethodT", bound=Method)


def only_method(given: Any, kind: type[MethodT], option: str) -> tuple[str, MethodT]:
    """Return the name and the method that an option holds.

    Args:
        given: the method, or a mapping of its name to it (the form of a file of a config group).
        kind: its required class.
        option: the option's name.

    Raises:
        ValueError: if it is not exactly one method of that class.
    """
    named = given if isinstance(given, Mapping) else {type(given).__name__: given}
    if len(named) != 1:
        raise ValueError(f"{option} names {len(named)} methods ({', '.join(named)}) and must name one")
    ((name, method),) = named.items()
    if not isinstance(method, kind):
        raise ValueError(f"{option} must be a {kind.__name__}, not {name}")
    return name, method


def copy_needs(wrapper: Describer, describers: Iterable[Describer]) -> None:
    """Give a describer all the needs of the describers inside it."""
    inside = tuple(describers)
    wrapper.needs_channels = any(one.needs_channels for one in inside)
    wrapper.needs_exemplars = any(one.needs_exemplars for one in inside)
    wrapper.needs_effects = any(one.needs_effects for one in inside)
    wrapper.kinds = tuple(kind for kind in VectorKind if any(kind in one.kinds for one in inside))
    wrapper.after = tuple(dict.fromkeys(name for one in inside for name in one.after))


def case_for(method: Method, case: DescriberCase, **changes: Any) -> DescriberCase:
    """Return a wrapper's case as the run would give it to the ``method`` inside."""
    llms = {role: case.llms[role] for role in method.roles if role in case.llms}
    return dataclasses.replace(case, llm=llms.get(method.role or ""), llms=llms, **changes)
