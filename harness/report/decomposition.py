"""What a decomposition found, in the terminal and as a file: the same figures as in the report."""

from __future__ import annotations

import datetime

from rich.console import Console
from rich.table import Table

from harness.folder import RunFolder
from harness.results.diagnostics import diagnostics_groups, diagnostics_row, together
from harness.results.formatting import number, percent


def print_decomposition(folder: RunFolder, console: Console) -> None:
    """Print the figures by layer and kind, and what it took."""
    groups = diagnostics_groups(folder)
    if not groups:
        return
    table = Table(title="Decomposition", title_justify="left", padding=(0, 1))
    for heading in ("Layer", "Kind"):
        table.add_column(heading)
    for heading in ("Vectors", "Channels", "Kurtosis: vector", "channel 1", "Cosine", "In span %"):
        table.add_column(heading, justify="right")
    rows = [diagnostics_row(group) for group in (*groups, together(groups))]
    for row in rows:
        last = row is rows[-1]
        table.add_row(
            "all" if row.layer is None else str(row.layer),
            row.kind or "all",
            f"{row.vectors:,}",
            f"{row.found:,}",
            number(row.vector_kurtosis),
            number(row.first_kurtosis),
            number(row.cosine),
            percent(row.reconstruction),
            style="bold" if last else "",
            end_section=not last and row is rows[-2],
        )
    console.print(table)
    console.print(cost(folder), style="dim", highlight=False)


def cost(folder: RunFolder) -> str:
    """Return in words how long the decomposition took, over all the times that the run was taken up."""
    timings = folder.read_timings()
    vectors = sum(timing.vectors for timing in timings)
    wall, found, kept = (sum(getattr(timing, name) for timing in timings) for name in ("wall", "decompose", "records"))
    if not vectors or not wall:
        return "no record of the time it took"
    took = datetime.timedelta(seconds=round(wall))
    return (
        f"{vectors:,} vectors in {took} ({vectors / wall:.3g} a second); of the workers' time "
        f"{percent(kept / (found + kept))} % went into records"
    )
