"""Everything that a report needs of a run, read from its folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import HarnessError
from harness.folder import RunFolder, replacing, write_json
from harness.records import Channel, Description, Exemplar, Neuron, Score, VectorSummary, Verdict
from harness.stats import (
    Leaderboard,
    MeritGroup,
    latex_table,
    leaderboard_from_json,
    leaderboard_of,
    markdown_table,
    merit_groups,
    write_csv,
)

SHOWN = 200


@dataclass(frozen=True)
class RunData:
    """The records of one run and the statistics on them.

    Attributes:
        folder: name of the run folder, without its path.
        manifest: what was run; any part of it may be absent.
        leaderboard: the statistics.
        descriptions: the describers' descriptions.
        verdicts: the comparators' verdicts.
        scores: the scorers' grades.
        channels: the channels of the neurons that are shown, ordered by neuron, kind and rank.
        vectors: their weight vectors, ordered by neuron and kind.
        exemplars: the exemplars of every split.
        merit: the figures of all vectors and channels, shown or not, by layer and kind.
        left_out: how many neurons were decomposed whose channels and vectors are left out here: of a run that only
            decomposes, the report shows no more than ``SHOWN`` neurons.
    """

    folder: str
    manifest: Mapping[str, Any]
    leaderboard: Leaderboard
    descriptions: tuple[Description, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    channels: tuple[Channel, ...]
    vectors: tuple[VectorSummary, ...]
    exemplars: tuple[Exemplar, ...]
    merit: tuple[MeritGroup, ...]
    left_out: int = 0

    @property
    def compares(self) -> bool:
        """Whether describers are compared in this run; if not, it decomposes and no more."""
        return bool(self.manifest.get("contestants", True)) or bool(self.leaderboard.overall.rows)

    @property
    def name(self) -> str:
        """The run's name, or its folder's."""
        return str(self.manifest.get("name") or self.folder)

    @cached_property
    def neurons(self) -> tuple[Neuron, ...]:
        """Every neuron that any record speaks of, ordered; those left out are not among them.

        A neuron that is described at its negative sign alone stands there once, at that sign.
        """
        signed = {
            record.neuron
            for group in (self.descriptions, self.verdicts, self.scores, self.exemplars)
            for record in group
        }
        whole = {record.neuron for group in (self.channels, self.vectors) for record in group}
        return tuple(sorted(signed | (whole - {neuron.whole for neuron in signed})))

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Seconds spent by each describer, judge and scorer, by name, summed over items that ran side by side."""
        totals: dict[str, float] = defaultdict(float)
        for item in self.descriptions:
            totals[item.describer] += item.usage.seconds
        for verdict in self.verdicts:
            totals[verdict.judge] += verdict.usage.seconds
        for score in self.scores:
            totals[score.scorer] += score.usage.seconds
        return totals

    @property
    def describers(self) -> tuple[str, ...]:
        """The contestants, best first, the unjudged last."""
        return tuple(row.describer for row in self.leaderboard.overall.rows)

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a part of the manifest that is a mapping, empty if it is absent."""
        value = self.manifest.get(key)
        return value if isinstance(value, Mapping) else {}

    def is_control(self, describer: str) -> bool:
        """Tell whether a contestant is one that a real method must beat."""
        entry = self.part("contestants").get(describer)
        return isinstance(entry, Mapping) and bool(entry.get("control"))


def load_run(folder: RunFolder, *, recompute: bool = False) -> RunData:
    """Read a run folder.

    Args:
        folder: the run folder.
        recompute: whether to compute all statistics from the records even if the folder holds them. They are computed
            as well if it holds none, or some that another version wrote.

    Raises:
        HarnessError: if this is no run folder, or a file in it is damaged.
    """
    try:
        manifest = folder.read_manifest()
    except ValueError as error:
        raise HarnessError(f"{folder.manifest} is not readable JSON ({error}); restore it, or run again") from error
    if not isinstance(manifest, dict):
        raise HarnessError(f"{folder.manifest} holds no JSON object: this is not a run folder")
    descriptions, verdicts, scores = folder.descriptions(), folder.verdicts(), folder.scores()
    leaderboard = None if recompute else _stored_leaderboard(folder)
    if leaderboard is None:
        leaderboard = leaderboard_of(folder, manifest)
    shown, left_out = (None, 0) if manifest.get("contestants", True) else _choice(folder)
    return RunData(
        folder=folder.path.resolve().name,
        manifest=manifest,
        leaderboard=leaderboard,
        descriptions=tuple(sorted(descriptions.records(), key=lambda item: (item.neuron, item.describer))),
        verdicts=tuple(sorted(verdicts.records(), key=lambda item: (item.neuron, item.judge, item.first, item.second))),
        scores=tuple(sorted(scores.records(), key=lambda item: (item.neuron, item.scorer, item.describer))),
        channels=tuple(folder.read_channels(shown)),
        vectors=tuple(folder.read_vectors(shown)),
        exemplars=tuple(
            sorted(
                folder.read_exemplars(),
                key=lambda item: (item.neuron, item.split, item.source, item.window, item.document),
            )
        ),
        merit=merit_groups(folder),
        left_out=left_out,
    )


def _choice(folder: RunFolder) -> tuple[set[Neuron], int]:
    """Return at most ``SHOWN`` of the decomposed neurons, evenly spread, and the number of the others."""
    found = sorted({neuron for neuron, _ in folder.decomposed()})
    count = min(SHOWN, len(found))
    return {found[place * len(found) // count] for place in range(count)}, len(found) - count


def store_leaderboard(folder: RunFolder, leaderboard: Leaderboard) -> None:
    """Write the statistics into the run folder, as JSON, and their main table as CSV, Markdown and LaTeX."""
    write_json(folder.leaderboard, leaderboard.to_json())
    write_csv(leaderboard, folder.leaderboard_csv)
    for path, text in (
        (folder.leaderboard_markdown, markdown_table(leaderboard)),
        (folder.leaderboard_latex, latex_table(leaderboard)),
    ):
        with replacing(path) as aside:
            aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def _stored_leaderboard(folder: RunFolder) -> Leaderboard | None:
    try:
        return leaderboard_from_json(json.loads(folder.leaderboard.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
