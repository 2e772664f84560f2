"""Several comparable runs as one leaderboard."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.folder import RunFolder, item_of
from harness.records import Description, Score, Usage, Verdict
from harness.results.alignment import alignment_of
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
        names: for each run, the pooled name of each describer.
        judges: for each run, the pooled name of each judge.
        repeated: number of records that answer the same question as a record of an earlier run and are not counted.
        disagreeing: number of those with a different answer.
    """

    leaderboard: Leaderboard
    names: tuple[Names, ...]
    judges: tuple[Names, ...]
    repeated: int
    disagreeing: int


def pool(folders: Sequence[RunFolder]) -> Pool:
    """Make one benchmark of runs with the same subject, neurons and evidence.

    A describer is the same in two runs if all its descriptions are equal; otherwise each version gets its own name,
    such as ``rotate (kurtosis_weight=0.1)``. Judges are the same if their settings are. Versions that were never
    compared are ranked by the opponents they share (Bradley-Terry); their win rates have different opponents.

    Args:
        folders: the run folders. If several runs answer the same question, the record of the first one counts.

    Raises:
        HarnessError: if the runs cannot be pooled, naming all differences.
    """
    manifests = [folder.read_manifest() for folder in folders]
    written = [folder.descriptions().records() for folder in folders]
    parameters = swept(manifests)
    folder_names = [folder.path.resolve().name for folder in folders]
    names = _versions(list(map(_contents, written)), parameters, folder_names)
    differences = incomparable(manifests)
    same_describers = len({tuple(sorted(of_run.values())) for of_run in names}) == 1
    # Different judges are allowed only for the same describers; otherwise the judge would decide who wins.
    refused = [one for one in differences if one.what != "judges" or not same_describers]
    if refused:
        reasons = " ".join(f"{one.words} ({'; '.join(one.values)})" for one in refused)
        raise HarnessError(f"these runs cannot be pooled: {' '.join(reasons.split())}")
    judges = _versions(list(map(judging, manifests)), parameters, folder_names)
    repeats = _Repeats()
    descriptions: list[Description] = []
    verdicts: list[Verdict] = []
    scores: list[Score] = []
    controls: set[str] = set()
    informed: set[str] = set()
    people: set[str] = set()
    for folder, manifest, texts, names_here, judges_here in zip(
        folders, manifests, written, names, judges, strict=True
    ):
        descriptions += [_renamed(item, describer=names_here) for item in texts]
        verdicts += [
            _renamed(item, judge=judges_here, first=names_here, second=names_here)
            for item in folder.verdicts().records()
        ]
        scores += [_renamed(item, scorer=judges_here, describer=names_here) for item in folder.scores().records()]
        contestants = manifest.get("contestants") or {}
        for flag, names_of in (("control", controls), ("informed", informed)):
            names_of |= {own for name, own in names_here.items() if contestants.get(name, {}).get(flag)}
        known = manifest.get("judges") or {}
        people |= {own for name, own in judges_here.items() if known.get(name, {}).get("is_human")}
    seed, config = int(manifests[0].get("seed") or 0), statistics_of(manifests[0])
    leaderboard = build_leaderboard(
        repeats.first(verdicts),
        repeats.first(scores),
        repeats.first(descriptions),
        controls=controls,
        informed=informed,
        people=people,
        seed=seed,
        config=config,
        alignment=alignment_of(folders[0], seed=seed, config=config),  # the runs have the same neurons and text
    )
    return Pool(leaderboard, tuple(names), tuple(judges), repeats.repeated, repeats.disagreeing)


def _renamed(record: Record, **names: Names) -> Record:
    """Return a record with pooled names in these fields; names without a pooled name stay."""
    given = {field: getattr(record, field) for field in names}
    return dataclasses.replace(record, **{field: names[field].get(name, name) for field, name in given.items()})


def _contents(descriptions: Iterable[Description]) -> dict[str, Hashable]:
    """Return the set of each describer's descriptions, by its name."""
    contents: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for item in descriptions:
        contents[item.describer].add((item.neuron, item.text, item.status))
    return {name: frozenset(texts) for name, texts in contents.items()}


def _versions(
    contents: Sequence[Mapping[str, Hashable]], parameters: Sequence[Parameter], folder_names: Sequence[str]
) -> list[Names]:
    """Return the pooled names for each run: the original name, extended if it has several versions."""
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
                else f"{name} ({_version_label(runs, list(versions.values()), parameters, folder_names)})"
            )
            for run in runs:
                named[run][name] = full
    return list(named)


def _version_label(
    runs: Sequence[int], versions: Sequence[Sequence[int]], parameters: Sequence[Parameter], folder_names: Sequence[str]
) -> str:
    """Return the parameters that identify one version; the names of its runs if there are none."""
    constant = [
        one
        for one in parameters
        if all(len({repr(one.values[run]) for run in version}) == 1 for version in versions)
        and len({repr(one.values[version[0]]) for version in versions}) > 1
    ]
    labels = [label(constant, version[0]) for version in versions]
    if constant and len(set(labels)) == len(labels):
        return label(constant, runs[0])
    return ", ".join(folder_names[run] for run in runs)


class _Repeats:
    """Keeps the first record of each question and counts the others."""

    def __init__(self) -> None:
        self.repeated = self.disagreeing = 0

    def first(self, records: Iterable[Record]) -> list[Record]:
        found: dict[Hashable, Record] = {}
        for record in records:
            earlier = found.setdefault(item_of(record), record)
            if earlier is not record:
                self.repeated += 1
                self.disagreeing += _answer(earlier) != _answer(record)
        return list(found.values())


def _answer(record: Any) -> Any:
    """Return a record's answer without usage and reason."""
    if isinstance(record, Verdict):
        return record.winner, record.status
    if isinstance(record, Score):
        return record.value, record.status
    return dataclasses.replace(record, usage=Usage())
