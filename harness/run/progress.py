"""Progress of long work: a bar with rate and time left on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger(__name__)
LINE_SECONDS = 60
_bars = True


def draw_bars(draw: bool) -> None:
    """Say whether a terminal is to see bars from now on; without them it sees what a log would."""
    global _bars
    _bars = draw


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class Advance(Protocol):
    """Called with the number of items done since the last call, and how many there are once that is known."""

    def __call__(self, count: int, total_now: int | None = None, /) -> None:
        """Tell of them."""


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show progress of ``total`` items (none: not known yet); the block calls what it is given as they are done.

    A bar with rate and time left is drawn on a terminal. Elsewhere a log line tells them, at most once a minute and
    once a percent. At the end a log line tells the number and the seconds anywhere.
    """
    start, done = time.monotonic(), 0
    told, told_at = 0, start
    console = Console(stderr=True)
    columns = [TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), _Rate(), TimeRemainingColumn()]
    # The rate of the last ten minutes: a block of work may take longer than the half minute that rich looks back by
    # default, and would show no rate at all.
    bar = Progress(
        *columns,
        console=console,
        disable=not (_bars and console.is_terminal),
        transient=True,
        speed_estimate_period=600,
    )
    with bar:
        task = bar.add_task(title, total=total)

        def advance(count: int, total_now: int | None = None, /) -> None:
            nonlocal done, told, told_at, total
            done, total = done + count, total if total_now is None else total_now
            bar.update(task, advance=count, total=total)
            now = time.monotonic()
            enough = done - told >= (total or 0) / 100 and done != total
            if bar.disable and enough and now - told_at >= LINE_SECONDS:
                told, told_at = done, now
                logger.info("%s: %s", title, _line(done, total, unit, now - start))

        yield advance
    if total is not None or done:
        logger.info(
            "%s: %d%s %s in %.1f s",
            title,
            done,
            "" if total is None else f" of {total}",
            unit,
            time.monotonic() - start,
        )


def _line(done: int, total: int | None, unit: str, seconds: float) -> str:
    if total is None:
        return f"{done:,} {unit}, {done / seconds:.3g}/s"
    left = datetime.timedelta(seconds=round(seconds * (total - done) / done))
    return f"{done:,} of {total:,} {unit}, {done / seconds:.3g}/s, {left} left"
