"""Data of a run for a report, read from its folder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.records import Description, Neuron, PlantedAnswer, Score, Status, Verdict
from harness.results.answers import MethodAnswers, by_method
from harness.results.claims import ClaimRow, claim_rows
from harness.results.comparability import leaderboard_of
from harness.results.diagnostics import DiagnosticsGroup, diagnostics_groups
from harness.results.judge_checks import JudgeCheck
from harness.results.reference_channels import FoundChannel
from harness.results.schema import Leaderboard
from harness.results.stored import judge_checks_of, read_reference_channels, stored_judge_checks, stored_leaderboard

SHOWN = 1000
"""Maximum number of neurons that a report shows; its metrics include all neurons."""

T = TypeVar("T", Description, Verdict, Score)
Metrics = Mapping[tuple[str, str], Mapping[str, tuple[float, int]]]


@dataclass(frozen=True)
class RunData:
    """The records of one run and the statistics on them.

    Records are those of the neurons that are shown, at most ``SHOWN``; metrics include all neurons. Channels and
    exemplars stay on disk until the card of a neuron is built.

    Attributes:
        folder: name of the run folder, without its path.
        records: the run folder.
        neurons: the neurons that are shown, sorted; a neuron described only at its negative sign has that sign.
        manifest: the manifest; any part of it may be missing.
        leaderboard: the statistics.
        checks: judge checks, where the better description is known or judges were asked again.
        answers: statuses and cost of the answers by stage and method, including retests.
        metrics: additional metrics of the scorers: mean and count by scorer, describer and metric.
        descriptions: the describers' descriptions.
        verdicts: the comparators' verdicts.
        scores: the scorers' grades.
        compared: all neurons with verdicts; without verdicts those with scores, and without scores those with
            descriptions.
        diagnostics: diagnostics of all vectors and channels by layer and kind.
        left_out: number of neurons that are not shown.
        reference_channels: the channels named in the config, with those found.
        planted: the explainer's answers on planted concepts.
    """

    folder: str
    records: RunFolder = field(repr=False)
    neurons: tuple[Neuron, ...]
    manifest: Mapping[str, Any]
    leaderboard: Leaderboard
    checks: tuple[JudgeCheck, ...]
    answers: tuple[MethodAnswers, ...]
    metrics: Metrics
    descriptions: tuple[Description, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    compared: frozenset[Neuron]
    diagnostics: tuple[DiagnosticsGroup, ...]
    left_out: int = 0
    reference_channels: tuple[FoundChannel, ...] = ()
    planted: tuple[PlantedAnswer, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether describers are compared in this run; otherwise it only decomposes."""
        return bool(self.manifest.get("contestants", True)) or bool(self.leaderboard.overall.rows)

    @cached_property
    def claims(self) -> tuple[ClaimRow, ...]:
        """The published values of the decomposition, next to the run's."""
        return claim_rows(self.diagnostics, self.manifest)

    @property
    def name(self) -> str:
        """Name of the run, or of its folder."""
        return str(self.manifest.get("name") or self.folder)

    @property
    def describers(self) -> tuple[str, ...]:
        """The contestants, best first."""
        return tuple(row.describer for row in self.leaderboard.overall.rows)

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a part of the manifest that is a mapping; empty if it is missing."""
        value = self.manifest.get(key)
        return value if isinstance(value, Mapping) else {}

    def is_control(self, describer: str) -> bool:
        """Return whether a contestant is a control."""
        entry = self.part("contestants").get(describer)
        return isinstance(entry, Mapping) and bool(entry.get("control"))


def load_run(folder: RunFolder, *, recompute: bool = False) -> RunData:
    """Read a run folder.

    Args:
        folder: the run folder.
        recompute: whether to compute all statistics from the records even if they are stored. Otherwise they are only
            computed if they are missing or of another version.

    Raises:
        HarnessError: if this is not a run folder, or a file in it is damaged.
    """
    try:
        manifest = folder.read_manifest()
    except ValueError as error:
        raise HarnessError(
            f"{folder.manifest} is not valid JSON ({error}): restore it, or start the run again"
        ) from error
    if not isinstance(manifest, dict):
        raise HarnessError(f"{folder.manifest} is not a JSON object: this is not a run folder")
    descriptions, verdicts, scores = (
        folder.descriptions().records(),
        folder.verdicts().records(),
        folder.scores().records(),
    )
    leaderboard = None if recompute else stored_leaderboard(folder)
    checks = None if recompute else stored_judge_checks(folder)
    judged = {x.neuron for x in descriptions} | {x.neuron for x in verdicts} | {x.neuron for x in scores}
    shown, left_out = _choice(folder, judged)
    some = set(shown)
    return RunData(
        folder=folder.path.resolve().name,
        records=folder,
        neurons=tuple(shown),
        manifest=manifest,
        leaderboard=leaderboard_of(folder, manifest) if leaderboard is None else leaderboard,
        checks=judge_checks_of(folder, manifest) if checks is None else checks,
        answers=by_method(folder, descriptions, verdicts, scores),
        metrics=_metrics(scores),
        descriptions=_shown(descriptions, some, "neuron", "describer"),
        verdicts=_shown(verdicts, some, "neuron", "judge", "first", "second"),
        scores=_shown(scores, some, "neuron", "scorer", "describer"),
        compared=_compared(verdicts, scores, descriptions),
        diagnostics=diagnostics_groups(folder),
        left_out=left_out,
        reference_channels=read_reference_channels(folder, manifest),
        planted=tuple(folder.explainer_check().records()),
    )


def _choice(folder: RunFolder, judged: Iterable[Neuron]) -> tuple[list[Neuron], int]:
    """Return at most ``SHOWN`` of the neurons, evenly spaced, and the number of the others."""
    signed = set(judged)
    exemplars = folder.exemplar_table()
    if exemplars is not None:
        signed.update(exemplars.neurons)
        exemplars.close()
    whole = {neuron for neuron, _ in folder.decomposed()}
    found = sorted(signed | (whole - {neuron.unsigned for neuron in signed}))
    count = min(SHOWN, len(found))
    return [found[place * len(found) // count] for place in range(count)], len(found) - count


def _compared(*records: Iterable[Verdict] | Iterable[Score] | Iterable[Description]) -> frozenset[Neuron]:
    """Return the neurons of the first records that are not empty."""
    return next((found for some in records if (found := frozenset(item.neuron for item in some))), frozenset())


def _shown(records: Iterable[T], neurons: set[Neuron], *order: str) -> tuple[T, ...]:
    """Return the records of the neurons, sorted by attributes."""
    return tuple(sorted((item for item in records if item.neuron in neurons), key=attrgetter(*order)))


def _metrics(scores: Iterable[Score]) -> Metrics:
    """Return the means of the additional metrics of the ok scores."""
    values: defaultdict[tuple[str, str], defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for item in scores:
        for name, value in item.metrics.items():
            if item.status is Status.OK:
                values[item.scorer, item.describer][name].append(value)
    return {
        key: {name: (math.fsum(given) / len(given), len(given)) for name, given in metrics.items()}
        for key, metrics in values.items()
    }
