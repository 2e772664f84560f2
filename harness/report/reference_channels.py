"""Channels that were expected, beside those that a run found: read from its folder, and in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import RunFolder
from harness.results.formatting import number, shown_token, visible
from harness.results.reference_channels import FoundChannel
from harness.results.stored import read_reference_channels


def print_reference_channels(folder: RunFolder, console: Console) -> None:
    """Print two lines for each expected channel: what was expected, and what was found."""
    for found in read_reference_channels(folder, folder.read_manifest()):
        expected = found.expected
        table = Table(title=_title(found), title_justify="left", padding=(0, 1))
        table.add_column("")
        for heading in ("Kurtosis: vector", "channel", "Cosine"):
            table.add_column(heading, justify="right")
        table.add_column("Top tokens", overflow="fold")
        figures = (expected.vector_kurtosis, expected.kurtosis), (expected.cosine,)
        table.add_row("expected", *_figures(*figures), _tokens(expected.tokens))
        if found.channel is None:
            table.add_row("found", "–", "–", "–", "not decomposed in this run")
        else:
            figures = (found.vector_kurtosis, found.channel.kurtosis), (found.channel.cosine,)
            table.add_row("found", *_figures(*figures), _tokens(found.tokens))
        console.print(table)


def _title(found: FoundChannel) -> Text:
    expected = found.expected
    title = f"{expected.neuron} {expected.kind}, channel {expected.rank + 1}"
    if found.channel is not None and found.channel.rank != expected.rank:
        title += f"; found as channel {found.channel.rank + 1}"
    if found.jaccard is not None:
        title += f"; top tokens overlap by {found.jaccard:.2f} (Jaccard)"
    return Text(visible(title + (f". Expected after {expected.source}" if expected.source else "")))


def _figures(kurtosis: tuple[float | None, ...], cosine: tuple[float | None, ...]) -> list[str]:
    return [*(number(value, 1) for value in kurtosis), *(number(value, 2) for value in cosine)]


def _tokens(tokens: tuple[str, ...]) -> Text:
    return Text(" ".join(shown_token(token) for token in tokens) or "–")
