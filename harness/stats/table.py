"""The leaderboard's rows as CSV, for a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from harness.folder import replacing
from harness.stats.boards import Leaderboard, Row

ALL_JUDGES = "all judges"


def write_csv(leaderboard: Leaderboard, path: Path) -> None:
    """Write one line for each board and describer, in the leaderboard's order; a missing figure is an empty field.

    The columns are ``judge`` and the fields of :class:`~harness.stats.boards.Row`, the interval as ``low``, ``high``.
    """
    fields = [field.name for field in dataclasses.fields(Row)]
    place = fields.index("interval")
    header = ["judge", *fields[:place], "low", "high", *fields[place + 1 :]]
    with replacing(path) as aside, aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        for board in (leaderboard.overall, *leaderboard.judges):
            for row in board.rows:
                low, high = row.interval or (None, None)
                judge = ALL_JUDGES if board.judge is None else board.judge
                writer.writerow({**dataclasses.asdict(row), "judge": judge, "low": low, "high": high})
