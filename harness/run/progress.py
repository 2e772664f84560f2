"""Progress of long work: a bar with rate and time left on a terminal, and occasional log lines elsewhere."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger(__name__)
LINE_SECONDS = 60
_bars = True


def draw_bars(draw: bool) -> None:
    """Set whether bars are drawn on a terminal; without them it gets the log lines."""
    global _bars
    _bars = draw


#: Called with a stage's title, the number of items done, and their total if it is known.
Listener = Callable[[str, int, int | None], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call a listener on all progress inside the block; exceptions that it raises are logged only."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _notify(title: str, done: int, total: int | None) -> None:
    for listener in _listeners:
        try:
            listener(title, done, total)
        except Exception:
            logger.debug("a listener failed", exc_info=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class Advance(Protocol):
    """Called with the number of items done since the last call, and the total once it is known."""

    def __call__(self, count: int, total_now: int | None = None, /) -> None:
        """Report the progress."""


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Show the progress of ``total`` items (None if not known yet), which the block reports to the yielded function.

    On a terminal this draws a bar with rate and time left. Elsewhere it logs a line at most once a minute and once a
    percent. Everywhere, a last line logs the number of items and the seconds.
    """
    start, done = time.monotonic(), 0
    logged, logged_at = 0, start
    console = Console(stderr=True)
    bar = Progress(
        *(TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), _Rate(), TimeRemainingColumn()),
        console=console,
        disable=not (_bars and console.is_terminal),
        transient=True,
        # A block of work can take longer than rich's default period of 30 s, which would show no rate at all.
        speed_estimate_period=600,
    )
    with bar:
        task = bar.add_task(title, total=total)

        def advance(count: int, total_now: int | None = None, /) -> None:
            nonlocal done, logged, logged_at, total
            done, total = done + count, total if total_now is None else total_now
            bar.update(task, advance=count, total=total)
            _notify(title, done, total)
            now = time.monotonic()
            due = done - logged >= (total or 0) / 100 and done != total
            if bar.disable and due and now - logged_at >= LINE_SECONDS:
                logged, logged_at = done, now
                logger.info("%s: %s", title, _line(done, total, unit, now - start))

        yield advance
    if total is not None or done:
        of_total = "" if total is None else f" of {total}"
        logger.info("%s: %d%s %s in %.1f s", title, done, of_total, unit, time.monotonic() - start)


def by_difference(report: Callable[[int], object]) -> Callable[[int, int], None]:
    """Return a function that gets the number of items done so far, and their total, and reports the new ones."""
    reported = 0

    def so_far(done: int, _: int) -> None:
        nonlocal reported
        new, reported = done - reported, done
        report(new)

    return so_far


def _line(done: int, total: int | None, unit: str, seconds: float) -> str:
    if total is None:
        return f"{done:,} {unit}, {done / seconds:.3g}/s"
    left = datetime.timedelta(seconds=round(seconds * (total - done) / done))
    return f"{done:,} of {total:,} {unit}, {done / seconds:.3g}/s, {left} left"
