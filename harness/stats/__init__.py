"""Statistics of a run, from its records alone: comparisons, win rates, strengths, tests, agreement, the leaderboard."""

from harness.stats.agreement import NO_LABEL, cohen_kappa, fleiss_kappa, kappa_interval
from harness.stats.boards import (
    Agreement,
    Board,
    BreakdownRow,
    Cell,
    Concordance,
    ControlCheck,
    Cycles,
    DescriptionRow,
    Graph,
    JudgeHealth,
    Leaderboard,
    LeftOut,
    LeftOutRow,
    LengthEffect,
    PairTest,
    Row,
    ScoreRow,
    ScoreTest,
    Trust,
    leaderboard_from_json,
    leaderboard_schema,
)
from harness.stats.bootstrap import Resamples, clustered_interval, clustered_intervals, percentiles
from harness.stats.comparisons import MISSING, Comparison, merge_verdicts
from harness.stats.concordance import kendall_tau
from harness.stats.config import StatisticsConfig
from harness.stats.expected import ExpectedChannel, FoundChannel, expected_channels, found_channels
from harness.stats.facets import facets_of
from harness.stats.leaderboard import build_leaderboard
from harness.stats.merit import Floats, MeritGroup, MeritRow, merit_groups, merit_json, merit_row, rectangle, together
from harness.stats.parameters import Parameter, swept
from harness.stats.permutation import holm, sign_flip_p_value, standardised_effect
from harness.stats.pool import Pool, pool
from harness.stats.power import Plan, neurons_needed, smallest_difference
from harness.stats.runs import Difference, incomparable, leaderboard_of
from harness.stats.table import csv_table, latex_table, markdown_table, write_csv

__all__ = [
    "MISSING",
    "NO_LABEL",
    "Agreement",
    "Board",
    "BreakdownRow",
    "Cell",
    "Comparison",
    "Concordance",
    "ControlCheck",
    "Cycles",
    "DescriptionRow",
    "Difference",
    "ExpectedChannel",
    "Floats",
    "FoundChannel",
    "Graph",
    "JudgeHealth",
    "Leaderboard",
    "LeftOut",
    "LeftOutRow",
    "LengthEffect",
    "MeritGroup",
    "MeritRow",
    "PairTest",
    "Parameter",
    "Plan",
    "Pool",
    "Resamples",
    "Row",
    "ScoreRow",
    "ScoreTest",
    "StatisticsConfig",
    "Trust",
    "build_leaderboard",
    "clustered_interval",
    "clustered_intervals",
    "cohen_kappa",
    "csv_table",
    "expected_channels",
    "facets_of",
    "fleiss_kappa",
    "found_channels",
    "holm",
    "incomparable",
    "kappa_interval",
    "kendall_tau",
    "latex_table",
    "leaderboard_from_json",
    "leaderboard_of",
    "leaderboard_schema",
    "markdown_table",
    "merge_verdicts",
    "merit_groups",
    "merit_json",
    "merit_row",
    "neurons_needed",
    "percentiles",
    "pool",
    "rectangle",
    "sign_flip_p_value",
    "smallest_difference",
    "standardised_effect",
    "swept",
    "together",
    "write_csv",
]
