"""The figures that sum a leaderboard up, by name: what trackers show of a run, and what a sweep may seek."""

from __future__ import annotations

from typing import Any

from harness.stats.boards import Leaderboard

OF_DESCRIBERS = ("win_rate", "adjusted_win_rate", "strength", "rank")
OF_JUDGES = ("inconsistency", "first_position_rate")


def leaderboard_figures(leaderboard: Leaderboard) -> dict[str, Any]:
    """Return the figures that runs are compared by, and whether they can be trusted, in words too."""
    found: dict[str, Any] = {}
    for board in (leaderboard.overall, *leaderboard.judges):
        name = "trust" if board.judge is None else f"trust/{board.judge}"
        found |= {f"{name}/words": board.trust.words, f"{name}/trustworthy": board.trust.trustworthy}
    for row in leaderboard.overall.rows:
        for figure in OF_DESCRIBERS:
            found[f"{figure}/{row.describer}"] = getattr(row, figure)
    for score in leaderboard.scores:
        found[f"score/{score.scorer}/{score.describer}"] = score.mean
    for health in leaderboard.health:
        for figure in OF_JUDGES:
            found[f"judge/{health.judge}/{figure}"] = getattr(health, figure)
    return found
