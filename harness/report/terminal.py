"""Terminal tables of the decomposition, of the judge checks, of sanity checks and of reference channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import RunFolder
from harness.planted.sanity import lines, stored_sanity
from harness.results import columns
from harness.results.claims import claim_rows
from harness.results.comparability import statistics_of
from harness.results.diagnostics import diagnostics_groups, diagnostics_row, together
from harness.results.formatting import number, shown_token, visible
from harness.results.judge_checks import JudgeCheck
from harness.results.reference_channels import FoundChannel
from harness.results.stored import read_reference_channels, stored_judge_checks
from harness.results.tables import print_claims


def print_decomposition(folder: RunFolder, console: Console) -> None:
    """Print the diagnostics by layer and kind, and the published values next to the run's."""
    groups = diagnostics_groups(folder)
    if not groups:
        return
    metrics = columns.shown_in(columns.DIAGNOSTICS, columns.TERMINAL)
    table = _table("Decomposition", ["Layer", "Kind"], [metric.title for metric in metrics])
    for group in groups:
        row = diagnostics_row(group)
        cells = [metric.text(row) for metric in metrics]
        table.add_row(str(row.layer), row.kind, *cells, end_section=group is groups[-1])
    total = diagnostics_row(together(groups))
    table.add_row("all", "all", *(metric.text(total) for metric in metrics), style="bold")
    console.print(table)
    print_claims(claim_rows(groups, folder.read_manifest()), console)


def print_judge_checks(folder: RunFolder, console: Console) -> None:
    """Print one row for each judge with judge checks; columns without values are left out."""
    checks = stored_judge_checks(folder) or ()
    if not checks:
        return
    confidence = statistics_of(folder.read_manifest()).confidence
    found: list[tuple[str, list[str]]] = []
    for metric in columns.shown_in(columns.CHECKS, columns.TERMINAL):
        cells = [[_retest(check)] if metric.key == "retest" else metric.cells(check) for check in checks]
        found += zip(metric.headings(confidence, short=True), map(list, zip(*cells, strict=True)), strict=True)
    shown = {heading: values for heading, values in found if set(values) != {"–"}}
    table = _table("Judge checks", ["Judge"], shown)
    for check, *values in zip(checks, *shown.values(), strict=True):
        table.add_row(Text(visible(check.judge)), *values)
    console.print(table)


def print_sanity(folder: RunFolder, console: Console) -> None:
    """Print the sanity checks of the judges, if the run has any: percent of neurons by test and base rate."""
    table = stored_sanity(folder)
    if table is None:
        return
    head, body = lines(table)
    shown = _table("Sanity checks: % of neurons, by share of active text", head[:2], head[2:])
    for line in body:
        shown.add_row(*map(visible, line))
    console.print(shown)


def _retest(check: JudgeCheck) -> str:
    failed = f", {check.retests_failed} failed" if check.retests_failed else ""
    return f"{number(check.retest)} of {check.retests}{failed}" if check.retests or failed else "–"


def print_reference_channels(folder: RunFolder, console: Console) -> None:
    """Print a table of two rows for each reference channel: the reference and what the run found."""
    for found in read_reference_channels(folder, folder.read_manifest()):
        table = _table(_title(found), [""], ["Kurtosis: vector", "channel", "Cosine"])
        table.add_column("Top tokens", overflow="fold")
        rows: dict[str, Any] = {"reference": (found.reference.vector_kurtosis, found.reference, found.reference.tokens)}
        if found.channel is not None:
            rows["found"] = (found.vector_kurtosis, found.channel, found.tokens)
        for name, (kurtosis, channel, tokens) in rows.items():
            metrics = number(kurtosis, 1), number(channel.kurtosis, 1), number(channel.cosine)
            table.add_row(name, *metrics, Text(" ".join(shown_token(token) for token in tokens) or "–"))
        if found.channel is None:
            table.add_row("found", "–", "–", "–", "not decomposed in this run")
        console.print(table)


def _title(found: FoundChannel) -> Text:
    reference = found.reference
    title = f"{reference.neuron} {reference.kind}, channel {reference.rank + 1}"
    if found.channel is not None and found.channel.rank != reference.rank:
        title += f"; found as channel {found.channel.rank + 1}"
    if found.jaccard is not None:
        title += f"; top tokens overlap by {found.jaccard:.2f} (Jaccard)"
    return Text(visible(title + (f". Source: {reference.source}" if reference.source else "")))


def _table(title: str | Text, names: Iterable[str], headings: Iterable[str]) -> Table:
    """Return a table with columns of names on the left and columns of metrics on the right."""
    table = Table(title=title, title_justify="left", padding=(0, 1))
    for heading in names:
        table.add_column(heading, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
