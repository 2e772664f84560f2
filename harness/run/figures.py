"""The figure that a sweep seeks, one of those that trackers show: whether a run will have it, and what it is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.run.setup import Setup
from harness.run.tracked import summary_of_run
from harness.stats import Leaderboard, MeritRow, merit_groups


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
    value = summary_of_run(folder, leaderboard, merit_groups(folder)).get(name)
    if value is None:
        raise HarnessError(f"this run's {name} has no value: nothing was observed for it (sweep.figure)")
    return float(value)


def _names(setup: Setup) -> Iterator[str]:
    """Yield the numbers among the figures that :func:`harness.run.tracked.summary_of_run` may give to such a run."""
    for describer in setup.describers:
        yield from (f"{figure}/{describer}" for figure in ("win_rate", "adjusted_win_rate", "strength", "rank"))
    if setup.describers:
        yield "best/win_rate"
    for judge in setup.judges:
        if judge in setup.scorers:
            yield from (f"score/{judge}/{describer}" for describer in setup.describers)
        else:
            figures = ("inconsistency", "first_position_rate")
            checks = ("accuracy", "brier", "consistency", "length_effect", "self_preference", "retest")
            yield from (f"judge/{judge}/{figure}" for figure in (*figures, *checks))
    yield from (f"failed/{method}" for method in (*setup.describers, *setup.judges))
    yield from (
        f"cost/{figure}" for figure in ("calls", "prompt_tokens", "completion_tokens", "seconds", "total", "paid")
    )
    for field in dataclasses.fields(MeritRow):
        if field.name not in {"layer", "kind"}:
            yield f"decomposition/{field.name}"
