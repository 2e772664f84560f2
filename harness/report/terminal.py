"""The leaderboard as a table in the terminal, for the end of a run."""

from __future__ import annotations

import itertools

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.results.formatting import number, percent, visible
from harness.results.schema import Leaderboard, Row

_STYLES = {True: "green", False: "bold red", None: "yellow"}


def print_leaderboard(leaderboard: Leaderboard, console: Console) -> None:
    """Print whether the controls lose and the rows of all judges together, in 80 columns.

    Of a run whose judges only score, the scores. Controls are dimmed, failures are shown beside what they are part of.
    """
    if leaderboard.only_scores:
        console.print(_scores(leaderboard))
        return
    judges = "judge" if len(leaderboard.judges) == 1 else "judges"
    title = f"Leaderboard: {leaderboard.neurons} neurons, {len(leaderboard.judges)} comparing {judges}"
    table = Table(title=title, padding=(0, 1), title_justify="left", caption_justify="left")
    # Short headings, so that the names keep their room in 80 columns. Adjusted: at equal length.
    table.add_column("Describer", overflow="fold", min_width=12)
    table.add_column("Rank", justify="right", no_wrap=True)
    table.add_column("Win %", justify="right", no_wrap=True)
    table.add_column(f"{100 * leaderboard.confidence:g} % interval", justify="right", no_wrap=True)
    for heading in ("Adj. %", "n", "Failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in leaderboard.overall.rows:
        interval = "–" if row.interval is None else f"{percent(row.interval[0])} to {percent(row.interval[1])}"
        name = Text(visible(row.describer))  # a Text, so that brackets in a name are no markup
        if row.control:
            name.append(" (control)", style="dim")
        table.add_row(
            name,
            _rank(row),
            Text(percent(row.win_rate), style="bold"),
            interval,
            percent(row.adjusted_win_rate),
            str(row.comparisons),
            Text(str(row.failed), style="red" if row.failed else ""),
            style="dim" if row.control else "",
        )
    console.print(table)
    boards = leaderboard.judges if len(leaderboard.judges) > 1 else ()
    for board in (leaderboard.overall, *boards):
        # A judge's own line is worth its room only where it says something else.
        if board.judge is None or board.trust.trustworthy is not leaderboard.overall.trust.trustworthy:
            who = "" if board.judge is None else f"{board.judge}: "
            console.print(Text(visible(who + board.trust.words), style=_STYLES[board.trust.trustworthy]))
    if len(leaderboard.overall.graph.groups) > 1:
        console.print(Text(visible(leaderboard.overall.graph.words), style="yellow"))
    for health in leaderboard.health:
        parts = [f"{health.failed} of {health.failed + health.comparisons} comparisons failed"]
        if health.inconsistency is not None:
            parts.append(f"{percent(health.inconsistency)} % inconsistent between the two orders")
        if health.first_position_rate is not None:
            parts.append(f"{percent(health.first_position_rate)} % won by the first shown")
        console.print(Text(f"{visible(health.judge)}: {', '.join(parts)}", style="dim"))


def _scores(leaderboard: Leaderboard) -> Table:
    table = Table(title="Scores: no judge compares", padding=(0, 1), title_justify="left")
    for heading in ("Scorer", "Describer"):
        table.add_column(heading, overflow="fold", min_width=10)
    for heading in ("Mean", f"{100 * leaderboard.confidence:g} % interval", "n", "Failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, following in itertools.zip_longest(leaderboard.scores, leaderboard.scores[1:]):
        name = Text(visible(row.describer))
        if row.control:
            name.append(" (control)", style="dim")
        failed = sum(row.statuses.values()) - row.scores
        interval = "–" if row.interval is None else f"{number(row.interval[0], 3)} to {number(row.interval[1], 3)}"
        table.add_row(
            Text(visible(row.scorer)),
            name,
            Text(number(row.mean, 3), style="bold"),
            interval,
            str(row.scores),
            Text(str(failed), style="red" if failed else ""),
            style="dim" if row.control else "",
            end_section=following is not None and following.scorer != row.scorer,
        )
    return table


def _rank(row: Row) -> str:
    if row.rank is None:
        return "–"
    return str(row.rank) if row.rank_interval is None else f"{row.rank} ({row.rank_interval[0]}–{row.rank_interval[1]})"
