"""Terminal table of the config's reference channels and the channels that the run found."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import RunFolder
from harness.results.formatting import number, shown_token, visible
from harness.results.reference_channels import FoundChannel
from harness.results.stored import read_reference_channels


def print_reference_channels(folder: RunFolder, console: Console) -> None:
    """Print a table of two rows for each reference channel: the reference and what the run found."""
    for found in read_reference_channels(folder, folder.read_manifest()):
        reference, channel = found.reference, found.channel
        table = Table("", title=_title(found), title_justify="left", padding=(0, 1))
        for heading in ("Kurtosis: vector", "channel", "Cosine"):
            table.add_column(heading, justify="right")
        table.add_column("Top tokens", overflow="fold")
        table.add_row(
            "reference",
            number(reference.vector_kurtosis, 1),
            number(reference.kurtosis, 1),
            number(reference.cosine),
            _tokens(reference.tokens),
        )
        if channel is None:
            table.add_row("found", "–", "–", "–", "not decomposed in this run")
        else:
            kurtosis = number(found.vector_kurtosis, 1), number(channel.kurtosis, 1)
            table.add_row("found", *kurtosis, number(channel.cosine), _tokens(found.tokens))
        console.print(table)


def _title(found: FoundChannel) -> Text:
    reference = found.reference
    title = f"{reference.neuron} {reference.kind}, channel {reference.rank + 1}"
    if found.channel is not None and found.channel.rank != reference.rank:
        title += f"; found as channel {found.channel.rank + 1}"
    if found.jaccard is not None:
        title += f"; top tokens overlap by {found.jaccard:.2f} (Jaccard)"
    return Text(visible(title + (f". Source: {reference.source}" if reference.source else "")))


def _tokens(tokens: tuple[str, ...]) -> Text:
    return Text(" ".join(shown_token(token) for token in tokens) or "–")
