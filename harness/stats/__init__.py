"""Statistics of a run, from its records alone: comparisons, win rates, intervals and the leaderboard."""

from harness.stats.boards import (
    Board,
    Cell,
    DescriptionRow,
    JudgeHealth,
    Leaderboard,
    Row,
    ScoreRow,
    leaderboard_from_json,
)
from harness.stats.bootstrap import clustered_interval, clustered_intervals
from harness.stats.comparisons import MISSING, Comparison, merge_verdicts
from harness.stats.leaderboard import build_leaderboard
from harness.stats.merit import Floats, MeritGroup, MeritRow, merit_groups, merit_json, merit_row, rectangle, together
from harness.stats.table import write_csv

__all__ = [
    "MISSING",
    "Board",
    "Cell",
    "Comparison",
    "DescriptionRow",
    "Floats",
    "JudgeHealth",
    "Leaderboard",
    "MeritGroup",
    "MeritRow",
    "Row",
    "ScoreRow",
    "build_leaderboard",
    "clustered_interval",
    "clustered_intervals",
    "leaderboard_from_json",
    "merge_verdicts",
    "merit_groups",
    "merit_json",
    "merit_row",
    "rectangle",
    "together",
    "write_csv",
]
