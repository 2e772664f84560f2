"""The leaderboard as a table in the terminal, for the end of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.report.text import number, percent, visible
from harness.stats import Leaderboard


def print_leaderboard(leaderboard: Leaderboard, console: Console) -> None:
    """Print the rows of all judges together; controls are dimmed, failures are shown beside what they are part of."""
    title = f"Leaderboard: {leaderboard.neurons} neurons, {len(leaderboard.judges)} judges"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("Describer", overflow="fold")
    for heading in ("Win rate %", f"{100 * leaderboard.confidence:g} % interval", "Comparisons"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("Won", "Tied", "Lost", "Failed", "Words"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in leaderboard.overall.rows:
        interval = "–" if row.interval is None else f"{percent(row.interval[0])} to {percent(row.interval[1])}"
        name = Text(visible(row.describer))  # a Text, so that brackets in a name are no markup
        if row.control:
            name.append(" (control)", style="dim")
        table.add_row(
            name,
            Text(percent(row.win_rate), style="bold"),
            interval,
            *map(str, (row.comparisons, row.wins, row.ties, row.losses)),
            Text(str(row.failed), style="red" if row.failed else ""),
            number(row.mean_words, 1),
            style="dim" if row.control else "",
        )
    console.print(table)
    for health in leaderboard.health:
        console.print(
            Text(
                f"{visible(health.judge)}: {percent(health.inconsistency)} % inconsistent, "
                f"{percent(health.first_position_rate)} % for the first shown, "
                f"{health.failed} of {health.failed + health.comparisons} comparisons failed",
                style="dim",
            )
        )
