"""Methods inside methods: how a describer that wraps others names them, and what it hands on to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from harness.methods import Describer, DescriberCase, Method
from harness.records import VectorKind

MethodT = TypeVar("MethodT", bound=Method)


def the_only(given: Any, kind: type[MethodT], option: str) -> tuple[str, MethodT]:
    """Return the one method that an option names, and its name.

    Args:
        given: the method, or a mapping of its name to it, as a config group's file gives it.
        kind: what it has to be.
        option: the option's name.

    Raises:
        ValueError: if it is not one, or not of that kind.
    """
    named = given if isinstance(given, Mapping) else {type(given).__name__: given}
    if len(named) != 1:
        raise ValueError(f"{option} names {len(named)} methods ({', '.join(named)}) and must name one")
    ((name, method),) = named.items()
    if not isinstance(method, kind):
        raise ValueError(f"{option} must be a {kind.__name__}, and {name} is none")
    return name, method


def roles_of(methods: Iterable[Method]) -> dict[str, bool]:
    """Return all LLM roles that the methods ask, each with whether any of them asks for log-probabilities."""
    roles: dict[str, bool] = {}
    for method in methods:
        for role, needs_logprobs in method.roles.items():
            roles[role] = roles.get(role, False) or needs_logprobs
    return roles


def take_needs(wrapper: Describer, describers: Iterable[Describer]) -> None:
    """Make a describer need whatever the describers inside it need of the run."""
    inside = tuple(describers)
    wrapper.needs_channels = any(one.needs_channels for one in inside)
    wrapper.needs_exemplars = any(one.needs_exemplars for one in inside)
    wrapper.needs_effects = any(one.needs_effects for one in inside)
    wrapper.kinds = tuple(kind for kind in VectorKind if any(kind in one.kinds for one in inside))
    wrapper.after = tuple(dict.fromkeys(name for one in inside for name in one.after))


def handed_on(case: DescriberCase, method: Method, **changes: Any) -> DescriberCase:
    """Return a case as the run would give it to a method that is inside the one it was given to."""
    llms = {role: case.llms[role] for role in method.roles if role in case.llms}
    return dataclasses.replace(case, llm=llms.get(method.role or ""), llms=llms, **changes)
