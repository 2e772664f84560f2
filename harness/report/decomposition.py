"""Terminal table of the decomposition's diagnostics."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from harness.folder import RunFolder
from harness.results.diagnostics import diagnostics_groups, diagnostics_row, together
from harness.results.formatting import number, percent


def print_decomposition(folder: RunFolder, console: Console) -> None:
    """Print the diagnostics by layer and kind."""
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
