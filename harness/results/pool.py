"""Comparable runs as one benchmark: their records under names that say what differs, no question counted twice."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.folder import RunFolder, description_identity, score_identity, verdict_identity
from harness.records import Description, Score, Usage, Verdict
from harness.results.comparability import incomparable, judging, statistics_of
from harness.results.leaderboard import build_leaderboard
from harness.results.parameters import Parameter, label, swept
from harness.results.schema import Leaderboard

Record = TypeVar("Record", Description, Verdict, Score)
Names = Mapping[str, str]


@dataclass(frozen=True)
class Pool:
    """Several runs as one benchmark.

    Attributes:
        leaderboard: its statistics.
        names: of each run, the describers' own names and those that they have here.
        judges: the same of the judges.
        repeated: records that answer a question which an earlier run answered alike, and count once.
        disagreeing: those among the repeated that say something else than the one that counts.
    """

    leaderboard: Leaderboard
    names: tuple[Names, ...]
    judges: tuple[Names, ...]
    repeated: int
    disagreeing: int


@dataclass(frozen=True)
class _Run:
    manifest: Mapping[str, Any]
    descriptions: Sequence[Description]
    verdicts: Sequence[Verdict]
    scores: Sequence[Score]


def pool(folders: Sequence[RunFolder]) -> Pool:
    """Make one benchmark of runs with the same subject, neurons and evidence.

    A describer is the same in two runs if all its descriptions are; otherwise it gets a name for each of its versions,
    such as ``rotate (kurtosis_weight=0.1)``. Judges with the same settings are the same. Versions that never met are
    ranked by the opponents that they have in common (Bradley-Terry); their win rates have opponents of their own.

    Args:
        folders: the run folders; of records that answer the same question, that of the first run counts.

    Raises:
        HarnessError: naming all that differs, if the runs cannot be one benchmark.
    """
    runs = [
        _Run(
            folder.read_manifest(),
            folder.descriptions().records(),
            folder.verdicts().records(),
            folder.scores().records(),
        )
        for folder in folders
    ]
    manifests = [run.manifest for run in runs]
    parameters = swept(manifests)
    places = [folder.path.resolve().name for folder in folders]
    names = _versions([_contents(run.descriptions) for run in runs], parameters, places)
    differences = incomparable(manifests)
    apart = [one for one in differences if one.what != "judges"]
    if any(one.what == "judges" for one in differences) and len({tuple(sorted(own.values())) for own in names}) > 1:
        # Who was judged by whom would decide who wins.
        apart = differences
    if apart:
        reasons = " ".join(f"{one.words} ({'; '.join(one.values)})" for one in apart)
        raise HarnessError(f"these runs cannot be pooled: {' '.join(reasons.split())}")
    judges = _versions([judging(run.manifest) for run in runs], parameters, places)
    repeats = _Repeats()
    descriptions = repeats.first(
        (
            dataclasses.replace(item, describer=own.get(item.describer, item.describer))
            for run, own in zip(runs, names, strict=True)
            for item in run.descriptions
        ),
        description_identity,
    )
    verdicts = repeats.first(
        (
            dataclasses.replace(
                item,
                judge=by.get(item.judge, item.judge),
                first=own.get(item.first, item.first),
                second=own.get(item.second, item.second),
                winner=item.winner,
            )
            for run, own, by in zip(runs, names, judges, strict=True)
            for item in run.verdicts
        ),
        verdict_identity,
    )
    scores = repeats.first(
        (
            dataclasses.replace(
                item, scorer=by.get(item.scorer, item.scorer), describer=own.get(item.describer, item.describer)
            )
            for run, own, by in zip(runs, names, judges, strict=True)
            for item in run.scores
        ),
        score_identity,
    )
    controls = {
        own[name]
        for run, own in zip(runs, names, strict=True)
        for name, entry in (run.manifest.get("contestants") or {}).items()
        if entry.get("control") and name in own
    }
    leaderboard = build_leaderboard(
        verdicts,
        scores,
        descriptions,
        controls=controls,
        seed=int(manifests[0].get("seed") or 0),
        config=statistics_of(manifests[0]),
    )
    return Pool(leaderboard, tuple(names), tuple(judges), repeats.repeated, repeats.disagreeing)


def _contents(descriptions: Iterable[Description]) -> dict[str, Hashable]:
    """Return what each describer said, by its name."""
    said: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for item in descriptions:
        said[item.describer].add((item.neuron, item.text, item.status))
    return {name: frozenset(texts) for name, texts in said.items()}


def _versions(
    contents: Sequence[Mapping[str, Hashable]], parameters: Sequence[Parameter], places: Sequence[str]
) -> list[Names]:
    """Return the pooled name of everything that has a name in each run: its own, unless several things have it."""
    named: list[dict[str, str]] = [{} for _ in contents]
    for name in dict.fromkeys(name for own in contents for name in own):
        versions: dict[Hashable, list[int]] = defaultdict(list)
        for run, own in enumerate(contents):
            if name in own:
                versions[own[name]].append(run)
        for runs in versions.values():
            full = (
                name
                if len(versions) == 1
                else f"{name} ({_told_apart(runs, list(versions.values()), parameters, places)})"
            )
            for run in runs:
                named[run][name] = full
    return list(named)


def _told_apart(
    runs: Sequence[int], versions: Sequence[Sequence[int]], parameters: Sequence[Parameter], places: Sequence[str]
) -> str:
    """Say what the runs of one version have in common that those of no other version have."""
    constant = [
        one
        for one in parameters
        if all(len({repr(one.values[run]) for run in version}) == 1 for version in versions)
        and len({repr(one.values[version[0]]) for version in versions}) > 1
    ]
    labels = [label(constant, version[0]) for version in versions]
    if constant and len(set(labels)) == len(labels):
        return label(constant, runs[0])
    return ", ".join(places[run] for run in runs)


class _Repeats:
    """Takes the first of the records that answer a question, and counts the others."""

    def __init__(self) -> None:
        self.repeated = self.disagreeing = 0

    def first(self, records: Iterable[Record], identity: Callable[[Record], Hashable]) -> list[Record]:
        found: dict[Hashable, Record] = {}
        for record in records:
            earlier = found.setdefault(identity(record), record)
            if earlier is not record:
                self.repeated += 1
                self.disagreeing += _said(earlier) != _said(record)
        return list(found.values())


def _said(record: Any) -> Any:
    """Return what a record says, apart from what it cost and how its reason is worded."""
    if isinstance(record, Verdict):
        return record.winner, record.status
    if isinstance(record, Score):
        return record.value, record.status
    return dataclasses.replace(record, usage=Usage())
