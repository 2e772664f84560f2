"""Which metrics notice that a description is wrong: sanity checks on planted neurons of known base rate.

Source: "Evaluating Neuron Explanations: A Unified Framework with Sanity Checks", arXiv:2506.05774. A description that
names exactly the concepts of a neuron is compared with

- *missing labels*: one that names half of them;
- *extra labels*: one that names as many further concepts that are equally common;
- *rank*: the right descriptions of other neurons of the same base rate.

A metric passes a test on a neuron if the right description scores higher by more than 0.001, in the rank test than
every other one. The share of neurons on which it passes is reported by base rate, the share of the windows that
activate the neuron. A comparator passes if it prefers the right description in every comparison of the test.

``python -m harness.planted.sanity RUN...`` prints the table of finished runs as JSON. That of ``experiment=sanity``, in
``sanity.json`` of this package, is shown beside the judges of other runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.errors import HarnessError
from harness.folder import RunFolder, write_json
from harness.planted.corruptions import Grade
from harness.planted.settings import Planting
from harness.records import Neuron, Score, Status
from harness.results.comparability import statistics_of
from harness.results.comparisons import merge_verdicts
from harness.results.rounding import mean, rounded_interval
from harness.results.scores import value_of
from harness.stats.bootstrap import Interval, clustered_interval

#: Smallest difference of two scores that counts.
DIFFERENCE = 0.001
#: Share of neurons on which a metric must pass the tests of labels, by the base rate from which it applies.
REQUIRED = {0.01: 0.95, 0.001: 0.80}
#: Metrics of scorers besides the value for which higher is better.
METRICS = (
    *("auprc", "f1", "pearson", "auc", "auc_hard", "balanced_accuracy", "recall", "specificity", "specificity_hard"),
    *("whole", "top_and_random", "top", "random", "average_precision", "precision", "coverage"),
)
VALUE = "value"


@dataclass(frozen=True)
class Passed:
    """On how many neurons a metric passes a test.

    Attributes:
        share: their share; None without neurons.
        interval: its bootstrap interval, clustered by neuron.
        neurons: number of neurons with usable answers.
    """

    share: float | None
    interval: Interval | None
    neurons: int


@dataclass(frozen=True)
class SanityRow:
    """The sanity checks of one metric of one judge at one base rate.

    Attributes:
        judge: the judge's name in the run.
        target: its class, as its config names it.
        metric: ``value`` is the score itself, or a comparator's verdict.
        rate: share of the windows that activate each neuron.
        missing: the test of missing labels.
        extra: the test of extra labels.
        rank: the rank test.
        chance: share of neurons that pass the rank test by chance; None without neurons.
        failed: neurons on which the judge gave no usable answer about the right description.
    """

    judge: str
    target: str
    metric: str
    rate: float
    missing: Passed
    extra: Passed
    rank: Passed
    chance: float | None
    failed: int


@dataclass(frozen=True)
class SanityTable:
    """The sanity checks of a run.

    Attributes:
        version: version of the harness.
        commit: its commit, if known.
        rows: by judge, metric and base rate, highest rate first.
    """

    version: str
    commit: str | None
    rows: tuple[SanityRow, ...]

    def of_target(self, target: str) -> tuple[SanityRow, ...]:
        """Return the rows of the value of the first judge of a class."""
        rows = [row for row in self.rows if row.target == target and row.metric == VALUE]
        return tuple(row for row in rows if row.judge == rows[0].judge)


def passes(rows: Iterable[SanityRow]) -> bool | None:
    """Return whether a metric passes both tests of labels often enough at every base rate; None without neurons."""
    shares = [
        (required, test.share)
        for row in rows
        for rate, required in REQUIRED.items()
        if row.rate == rate
        for test in (row.missing, row.extra)
        if test.share is not None
    ]
    return all(share >= required for required, share in shares) if shares else None


_TABLE = TypeAdapter(SanityTable)
_Results = dict[tuple[str, str], dict[Neuron, dict[str, float | None]]]


def sanity_of(folder: RunFolder, manifest: Mapping[str, Any]) -> SanityTable | None:
    """Compute the sanity checks of a run; None if it has no planted neurons with base rates, or no right descriptions.

    Raises:
        HarnessError: if the manifest's settings are invalid.
    """
    config = manifest.get("config") or {}
    settings = (config.get("subject") or {}).get("planting")
    graded = {
        name: entry["corruption"]["grade"]
        for name, entry in (manifest.get("contestants") or {}).items()
        if entry.get("corruption")
    }
    roles = {name: _role(grade) for name, grade in graded.items() if _role(grade)}
    rights = [name for name, role in roles.items() if role == "right"]
    if settings is None or len(rights) != 1:
        return None
    planting = Planting.of(settings)
    if any(level.rate is None for level in planting.levels.values()):
        return None
    right, statistics, seed = rights[0], statistics_of(manifest), int(manifest.get("seed") or 0)
    others = {test: [name for name, role in roles.items() if role == test] for test in ("missing", "extra", "rank")}

    def passed(answers: Mapping[Neuron, bool]) -> Passed:
        neurons = sorted(answers)
        values = [float(answers[neuron]) for neuron in neurons]
        clusters = [neuron.unsigned for neuron in neurons]
        draws, confidence = statistics.draws, statistics.confidence
        interval = clustered_interval(values, clusters, seed=seed, draws=draws, confidence=confidence)
        return Passed(mean(values), rounded_interval(interval), len(values))

    rows = []
    made = {(item.neuron, item.describer) for item in folder.descriptions().records() if item.status is Status.OK}
    results = {**_of_scorers(folder.scores().records(), right), **_of_comparators(folder, right, roles)}
    for (judge, metric), by_neuron in results.items():
        target = str((config.get("judges") or {}).get(judge, {}).get("_target_", ""))
        for rate in sorted({level.rate or 1.0 for level in planting.levels.values()}, reverse=True):
            found = {
                neuron: {name: margin for name, margin in margins.items() if (neuron, name) in made}
                for neuron, margins in by_neuron.items()
                if planting.level_of(neuron.index).rate == rate
            }
            tests = {
                test: passed(
                    {
                        neuron: all(margin > DIFFERENCE for margin in margins if margin is not None)
                        for neuron, given in found.items()
                        if (margins := [given[name] for name in names if name in given]) and None not in margins
                    }
                )
                for test, names in others.items()
            }
            failed = sum(not any(margin is not None for margin in given.values()) for given in found.values())
            chance = mean([1 / (1 + len(set(given) & set(others["rank"]))) for given in found.values()])
            rows.append(SanityRow(judge, target, metric, rate, **tests, chance=chance, failed=failed))
    if not rows:
        return None
    versions = manifest.get("versions") or {}
    return SanityTable(str(versions.get("neuron-harness", "")), manifest.get("commit"), tuple(rows))


def store_sanity(folder: RunFolder) -> None:
    """Compute and write the sanity checks of a run; without any, the file is removed."""
    table = sanity_of(folder, folder.read_manifest())
    if table is None:
        folder.sanity.unlink(missing_ok=True)
    else:
        write_json(folder.sanity, _TABLE.dump_python(table, mode="json"))


def stored_sanity(folder: RunFolder) -> SanityTable | None:
    """Return the stored sanity checks of a run, or None if there are none."""
    return _TABLE.validate_json(folder.sanity.read_bytes()) if folder.sanity.exists() else None


@cache
def measured_sanity() -> SanityTable:
    """Return the sanity checks of the packaged judges, as ``experiment=sanity`` measured them."""
    return _TABLE.validate_json(resources.files("harness.planted").joinpath("sanity.json").read_text("utf-8"))


def measured_of(config: Mapping[str, Any], judge: str) -> tuple[SanityRow, ...]:
    """Return the packaged sanity checks of a judge in a run's config, by its class; empty if there are none."""
    entry = (config.get("judges") or {}).get(judge) or {}
    return measured_sanity().of_target(str(entry.get("_target_", "")))


def _role(grade: str) -> str | None:
    """Return the part of a grade of description in the tests."""
    if grade.startswith(Grade.OTHER):
        return "rank"
    roles = {str(Grade.RIGHT): "right", str(Grade.HALF): "missing", str(Grade.ADDED): "extra"}
    return roles.get(grade)


def _of_scorers(scores: Iterable[Score], right: str) -> _Results:
    """Return by how much the right description scores above each other one, by scorer and metric; None if one failed.

    The metrics are the value and those in :data:`METRICS` that the scorer has.
    """
    found: dict[str, dict[Neuron, dict[str, Score]]] = defaultdict(lambda: defaultdict(dict))
    for score in scores:
        found[score.scorer][score.neuron][score.describer] = score
    results: _Results = {}
    for scorer, by_neuron in found.items():
        names = {name for given in by_neuron.values() for score in given.values() for name in score.metrics}
        for metric in (VALUE, *(name for name in METRICS if name in names)):
            results[scorer, metric] = {
                neuron: {
                    name: _difference(_metric(given[right], metric), _metric(score, metric))
                    for name, score in given.items()
                    if name != right
                }
                for neuron, given in by_neuron.items()
                if right in given
            }
    return results


def _metric(score: Score, metric: str) -> float | None:
    return value_of(score) if metric == VALUE else score.metrics.get(metric)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _of_comparators(folder: RunFolder, right: str, others: Iterable[str]) -> _Results:
    """Return the points of the right description against each other one, less 1/2, by comparator."""
    results: _Results = defaultdict(lambda: defaultdict(dict))
    known = set(others)
    for item in merge_verdicts(folder.verdicts().records()):
        if right in (item.left, item.right) and {item.left, item.right} <= known:
            other = item.right if item.left == right else item.left
            points = None if item.points is None else item.points if item.left == right else 1 - item.points
            results[item.judge, VALUE][item.neuron][other] = None if points is None else points - 0.5
    return dict(results)


def lines(table: SanityTable) -> tuple[list[str], list[list[str]]]:
    """Return the headings and cells of the table: one line for each judge and metric."""
    groups: dict[tuple[str, str], list[SanityRow]] = defaultdict(list)
    for row in table.rows:
        groups[row.judge, row.metric].append(row)
    rates = sorted({row.rate for row in table.rows}, reverse=True)
    tests = ("missing", "extra", "rank")
    head = ["judge", "metric", "passes", *(f"{test} {100 * rate:g} %" for test in tests for rate in rates)]
    body = []
    for (judge, metric), rows in groups.items():
        by_rate = {row.rate: row for row in rows}
        cells = [_cell(getattr(by_rate[rate], test)) for test in tests for rate in rates]
        verdict = passes(rows)
        body.append([judge, metric, "–" if verdict is None else "yes" if verdict else "no", *cells])
    return head, body


def in_words(rows: Sequence[SanityRow]) -> str:
    """Return the sanity checks of one metric in one sentence; empty without rows."""
    if not rows:
        return ""
    rates = ", ".join(f"{100 * row.rate:g}" for row in rows)
    tests = (("missing labels", "missing"), ("extra labels", "extra"), ("first of all", "rank"))
    shares = "; ".join(f"{name} {', '.join(_cell(getattr(row, test)) for row in rows)} %" for name, test in tests)
    return f"Passed on planted neurons active on {rates} % of the text: {shares}"


def _cell(passed: Passed) -> str:
    return "–" if passed.share is None else f"{100 * passed.share:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sanity checks of runs as one JSON table; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.planted.sanity", description="Print the sanity checks of runs as one JSON table."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run of experiment=sanity")
    options = parser.parse_args(arguments)
    try:
        tables = [_table_of(RunFolder(path)) for path in options.runs]
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = tuple(row for table in tables for row in table.rows)
    print(json.dumps(_TABLE.dump_python(replace(tables[0], rows=rows), mode="json"), indent=1))
    return 0


def _table_of(folder: RunFolder) -> SanityTable:
    table = sanity_of(folder, folder.read_manifest())
    if table is None:
        raise HarnessError(f"{folder.path} is not a run of experiment=sanity")
    return table


if __name__ == "__main__":
    sys.exit(main())
