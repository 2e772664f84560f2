"""Data of a run for a report, read from its folder."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.records import Description, Neuron, RoleUsage, Score, Status, Usage, Verdict, total_roles
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
class AskedAgain:
    """Retests of one judge.

    Attributes:
        judge: its name.
        statuses: number of second answers by status.
        usages: cost of each second answer.
    """

    judge: str
    statuses: Mapping[str, int]
    usages: tuple[Usage, ...]


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
        seconds: time of each describer, judge and scorer, by name, summed over items that ran at the same time, without
            retests.
        roles: LLM usage of each of them by role, including retests.
        again: retests by judge.
        metrics: additional metrics of the scorers: mean and count by scorer, describer and metric.
        descriptions: the describers' descriptions.
        verdicts: the comparators' verdicts.
        scores: the scorers' grades.
        compared: all neurons with verdicts; without verdicts those with scores, and without scores those with
            descriptions.
        diagnostics: diagnostics of all vectors and channels by layer and kind.
        left_out: number of neurons that are not shown.
        reference_channels: the channels named in the config, with those found.
    """

    folder: str
    records: RunFolder = field(repr=False)
    neurons: tuple[Neuron, ...]
    manifest: Mapping[str, Any]
    leaderboard: Leaderboard
    checks: tuple[JudgeCheck, ...]
    seconds: Mapping[str, float]
    roles: Mapping[str, Mapping[str, RoleUsage]]
    again: tuple[AskedAgain, ...]
    metrics: Metrics
    descriptions: tuple[Description, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    compared: frozenset[Neuron]
    diagnostics: tuple[DiagnosticsGroup, ...]
    left_out: int = 0
    reference_channels: tuple[FoundChannel, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether describers are compared in this run; otherwise it only decomposes."""
        return bool(self.manifest.get("contestants", True)) or bool(self.leaderboard.overall.rows)

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
    again: list[Verdict | Score] = [*folder.retests().records(), *folder.score_retests().records()]
    leaderboard = None if recompute else stored_leaderboard(folder)
    checks = None if recompute else stored_judge_checks(folder)
    judged = {x.neuron for x in descriptions} | {x.neuron for x in verdicts} | {x.neuron for x in scores}
    shown, left_out = _choice(folder, judged)
    some = set(shown) if left_out else None
    return RunData(
        folder=folder.path.resolve().name,
        records=folder,
        neurons=tuple(shown),
        manifest=manifest,
        leaderboard=leaderboard_of(folder, manifest) if leaderboard is None else leaderboard,
        checks=judge_checks_of(folder, manifest) if checks is None else checks,
        seconds=_seconds(descriptions, verdicts, scores),
        roles=_roles(descriptions, [*verdicts, *scores, *again]),
        again=_again(again),
        metrics=_metrics(scores),
        descriptions=tuple(sorted(_of(descriptions, some), key=lambda item: (item.neuron, item.describer))),
        verdicts=tuple(
            sorted(_of(verdicts, some), key=lambda item: (item.neuron, item.judge, item.first, item.second))
        ),
        scores=tuple(sorted(_of(scores, some), key=lambda item: (item.neuron, item.scorer, item.describer))),
        compared=_compared(verdicts, scores, descriptions),
        diagnostics=diagnostics_groups(folder),
        left_out=left_out,
        reference_channels=read_reference_channels(folder, manifest),
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


def _of(records: Iterable[T], neurons: set[Neuron] | None) -> list[T]:
    return [item for item in records if neurons is None or item.neuron in neurons]


def _seconds(
    descriptions: Iterable[Description], verdicts: Iterable[Verdict], scores: Iterable[Score]
) -> Mapping[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for item in descriptions:
        totals[item.describer] += item.usage.seconds
    for verdict in verdicts:
        totals[verdict.judge] += verdict.usage.seconds
    for score in scores:
        totals[score.scorer] += score.usage.seconds
    return totals


def _roles(
    descriptions: Iterable[Description], judged: Iterable[Verdict | Score]
) -> Mapping[str, Mapping[str, RoleUsage]]:
    usages: dict[str, list[Usage]] = defaultdict(list)
    for item in descriptions:
        usages[item.describer].append(item.usage)
    for answer in judged:
        usages[_judge(answer)].append(answer.usage)
    return {name: total_roles(used) for name, used in usages.items()}


def _again(answers: Iterable[Verdict | Score]) -> tuple[AskedAgain, ...]:
    by_judge: dict[str, list[Verdict | Score]] = defaultdict(list)
    for answer in answers:
        by_judge[_judge(answer)].append(answer)
    return tuple(
        AskedAgain(judge, Counter(item.status.value for item in mine), tuple(item.usage for item in mine))
        for judge, mine in by_judge.items()
    )


def _judge(answer: Verdict | Score) -> str:
    return answer.judge if isinstance(answer, Verdict) else answer.scorer


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
