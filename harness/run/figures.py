"""The figure that a sweep seeks: whether runs will have it, and what it is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.run.setup import Setup
from harness.stats import Leaderboard, MeritRow, merit_groups, merit_json
from harness.stats.summary import OF_DESCRIBERS, OF_JUDGES, leaderboard_figures


def decomposition_figures(folder: RunFolder) -> dict[str, float]:
    """Return what the run's decomposition found, all layers and kinds together; empty if it decomposed nothing."""
    total = merit_json(merit_groups(folder))["total"] or {}
    return {f"decomposition/{name}": value for name, value in total.items() if isinstance(value, int | float)}


def check_figure(name: str | None, setup: Setup) -> None:
    """Check that a run of this setup will have a figure.

    Raises:
        HarnessError: if it will not, naming what comes nearest.
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
    value = {**leaderboard_figures(leaderboard), **decomposition_figures(folder)}.get(name)
    if value is None:
        raise HarnessError(f"this run's {name} has no value: nothing was observed for it (sweep.figure)")
    return float(value)


def _names(setup: Setup) -> Iterator[str]:
    for describer in setup.describers:
        yield from (f"{figure}/{describer}" for figure in OF_DESCRIBERS)
    for judge in setup.judges:
        if judge in setup.scorers:
            yield from (f"score/{judge}/{describer}" for describer in setup.describers)
        else:
            yield from (f"judge/{judge}/{figure}" for figure in OF_JUDGES)
    for field in dataclasses.fields(MeritRow):
        if field.name not in {"layer", "kind"}:
            yield f"decomposition/{field.name}"
