"""The figure that a sweep seeks, one of those that trackers show: whether a run will have it, and what it is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.methods import Comparator
from harness.results.diagnostics import DiagnosticsRow, diagnostics_groups
from harness.results.schema import Leaderboard
from harness.results.summary import summary_of_run
from harness.run.setup import Setup


def check_figure(name: str | None, setup: Setup) -> None:
    """Check that a run of this setup can have a figure.

    Raises:
        HarnessError: if it cannot, naming what comes nearest.
    """
    if name is None:
        return
    known = list(_names(setup))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
        raise HarnessError(
            f"a run of this kind has no figure {name!r}; it has {len(known)}, such as {', '.join(near)} (sweep.figure)"
        )


def read_figure(name: str, folder: RunFolder, leaderboard: Leaderboard) -> float:
    """Return a figure of a finished run.

    Raises:
        HarnessError: if it has no value.
    """
    value = summary_of_run(folder, leaderboard, diagnostics_groups(folder)).get(name)
    if value is None:
        raise HarnessError(f"this run's {name} has no value: nothing was observed for it (sweep.figure)")
    return float(value)


def _names(setup: Setup) -> Iterator[str]:
    """Yield the numeric metrics that :func:`harness.results.summary.summary_of_run` may give to such a run."""
    if setup.comparators:
        for describer in setup.describers:
            yield from (f"{figure}/{describer}" for figure in ("win_rate", "adjusted_win_rate", "strength", "rank"))
        yield "best/win_rate"
    for judge in setup.judges:
        if judge in setup.scorers:
            yield from (f"score/{judge}/{describer}" for describer in setup.describers)
    yield from _of_judges(setup)
    yield from (f"failed/{method}" for method in (*setup.describers, *setup.judges))
    if setup.compares:
        yield from _costs(setup)
    for field in dataclasses.fields(DiagnosticsRow):
        if field.name not in {"layer", "kind"}:
            yield f"decomposition/{field.name}"


def _of_judges(setup: Setup) -> Iterator[str]:
    """Yield what is told of the judges: some of it of every comparator, some where the truth is known."""
    known = any(describer.corruption is not None for describer in setup.describers.values())
    truth = ("accuracy", "brier", "length_effect") if known else ()
    again = ("retest",) if setup.comparisons.retest else ()
    comparators: dict[str, Comparator] = {}
    for name, comparator in setup.comparators.items():
        comparators[name] = comparator
        members = getattr(comparator, "members", {})
        comparators |= {f"{name}/{member}": inner for member, inner in members.items()}
    for name, comparator in comparators.items():
        figures = [*truth, *again]
        if name in setup.comparators and not comparator.symmetric:
            figures += ["inconsistency", "first_position_rate"]
        if truth or again:  # else there is no check
            figures += ["consistency"] * (not comparator.symmetric) + ["self_preference"] * bool(comparator.roles)
        yield from (f"judge/{name}/{figure}" for figure in figures)
    yield from (
        f"judge/{name}/{figure}" for name in setup.judges if name in setup.scorers for figure in (*truth, *again)
    )


def _costs(setup: Setup) -> Iterator[str]:
    """Yield what is told of the costs; where a role has no price, nothing but calls and tokens is known."""
    counts = ("calls", "prompt_tokens", "completion_tokens")
    yield from (f"cost/{figure}" for figure in (*counts, "seconds"))
    asked = {role for method in (*setup.describers.values(), *setup.judges.values()) for role in method.roles}
    priced = []
    for role in sorted(asked & setup.backends.keys()):
        priced.append(setup.backends[role].price is not None)
        yield from (f"cost/{role}/{figure}" for figure in (*counts, *(("cost", "paid") if priced[-1] else ())))
    if priced and all(priced):
        yield from ("cost/total", "cost/paid")
