"""Recall and precision of the describers of a finished run on planted concepts, from its records and the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.planted.named import naming
from harness.planted.planting import truth_of
from harness.planted.settings import Planting
from harness.planted.truth import TRUTH, Seen, Truth
from harness.records import Description, Neuron, Status
from harness.results.comparability import statistics_of
from harness.results.rounding import mean, rounded_interval
from harness.stats.bootstrap import Interval, clustered_interval
from harness.stats.config import StatisticsConfig


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: between 0 and 1; None without observations.
        interval: bootstrap interval, clustered by neuron; None with fewer than two neurons.
        count: number of concepts (for a recall) or descriptions (for a precision).
    """

    mean: float | None
    interval: Interval | None
    count: int


@dataclass(frozen=True)
class RecallRow:
    """Recall and precision of one describer.

    Attributes:
        describer: its name.
        control: whether it is a control.
        recall: fraction of the planted concepts that it named, over all neurons with a description.
        seen: the same by where a concept can be found.
        levels: the same by difficulty.
        precision: mean fraction of a description's words that belong to a concept of its neuron.
        mean_words: mean number of words per description that count for precision; None without descriptions.
        unplanted: number of descriptions of neurons at a sign where nothing was planted. They are not counted
            elsewhere, because no text could name a concept.
        failed: number of neurons without a description. They are not counted elsewhere.
    """

    describer: str
    control: bool
    recall: Estimate
    seen: dict[Seen, Estimate]
    levels: dict[str, Estimate]
    precision: Estimate
    mean_words: float | None
    unplanted: int
    failed: int


def recall_rows(
    truth: Truth,
    descriptions: Iterable[Description],
    controls: Iterable[str],
    *,
    words: int = 2,
    seed: int = 0,
    config: StatisticsConfig | None = None,
) -> list[RecallRow]:
    """Compare descriptions with the truth.

    Recall is averaged over the concepts of all neurons, so a neuron with more concepts has more weight.

    Args:
        truth: what was planted.
        descriptions: descriptions of planted neurons.
        controls: names of the describers that are controls.
        words: number of different words of a concept that count as naming it (:func:`harness.planted.named.naming`).
        seed: seed of the bootstrap.
        config: bootstrap samples and coverage of the intervals; None for the defaults.

    Returns:
        One row per describer, by recall (highest first), then by name.

    Raises:
        HarnessError: if a description is of a neuron in which nothing was planted.
    """
    config = config or StatisticsConfig()
    by_describer: dict[str, list[Description]] = defaultdict(list)
    for description in sorted(descriptions, key=lambda item: (item.describer, item.neuron)):
        by_describer[description.describer].append(description)
    control_names = set(controls)

    def estimate(observations: Sequence[tuple[Neuron, float]]) -> Estimate:
        values, neurons = [value for _, value in observations], [neuron.unsigned for neuron, _ in observations]
        interval = clustered_interval(values, neurons, seed=seed, draws=config.draws, confidence=config.confidence)
        return Estimate(mean(values), rounded_interval(interval), len(values))

    def row(name: str, written: Sequence[Description]) -> RecallRow:
        usable = [item for item in written if item.status is Status.OK]
        counted = [(item.neuron, item.text, planted) for item in usable if (planted := truth.planted(item.neuron))]
        namings = [(neuron, planted, naming(text, planted, words)) for neuron, text, planted in counted]
        named = [
            (neuron, float(hit), concept.seen, truth.neuron(neuron).level)
            for neuron, planted, found in namings
            for concept, hit in zip(planted, found.named, strict=True)
        ]
        return RecallRow(
            describer=name,
            control=name in control_names,
            recall=estimate([(neuron, hit) for neuron, hit, _, _ in named]),
            seen={kind: estimate([(neuron, hit) for neuron, hit, seen, _ in named if seen is kind]) for kind in Seen},
            levels={
                level: estimate([(neuron, hit) for neuron, hit, _, of in named if of == level])
                for level in dict.fromkeys(neuron.level for neuron in truth.neurons)
            },
            precision=estimate([(n, found.precision) for n, _, found in namings if found.precision is not None]),
            mean_words=mean([found.words for _, _, found in namings]),
            unplanted=len(usable) - len(counted),
            failed=len(written) - len(usable),
        )

    rows = [row(name, written) for name, written in by_describer.items()]
    return sorted(rows, key=lambda row: (-(row.recall.mean or 0.0), row.describer))


def rows_of_run(folder: RunFolder, *, words: int = 2) -> tuple[Truth, list[RecallRow]]:
    """Read a finished run on a planted subject.

    Raises:
        HarnessError: if the folder holds no run, or a run on another subject.
    """
    manifest = folder.read_manifest()
    subject: Mapping[str, Any] = manifest["config"]["subject"]
    if "planting" not in subject:
        raise HarnessError(f"{folder.path} is a run on {subject.get('name')}, which is not a planted subject")
    planting = Planting.of(subject["planting"])
    path = Path(subject["cache"]).expanduser() / planting.key / TRUTH
    truth = Truth.read(path) if path.is_file() else truth_of(planting)
    controls = [name for name, contestant in manifest["contestants"].items() if contestant["control"]]
    records, config = folder.descriptions().records(), statistics_of(manifest)
    return truth, recall_rows(truth, records, controls, words=words, seed=manifest["seed"], config=config)


def markdown(rows: Sequence[RecallRow], confidence: float) -> str:
    """Return the rows as two Markdown tables: by where a concept can be found, and by difficulty.

    ``confidence`` is the coverage of their intervals.
    """
    seen = [kind for kind in Seen if any(row.seen[kind].count for row in rows)]
    levels = list(rows[0].levels) if rows else []
    unplanted = any(row.unplanted for row in rows)
    first = [["", "recall", *(f"in {kind}" if kind is not Seen.OUTPUT else "promoted" for kind in seen)]]
    first[0] += ["precision", "words", *(["nothing planted"] if unplanted else []), "failed"]
    second = [["recall by difficulty", *levels]]
    for row in rows:
        name = f"{row.describer} (control)" if row.control else row.describer
        length = "-" if row.mean_words is None else f"{row.mean_words:.0f}"
        estimates = [row.recall, *(row.seen[kind] for kind in seen), row.precision]
        counts = [str(row.unplanted)] if unplanted else []
        first.append([name, *map(_cell, estimates), length, *counts, str(row.failed)])
        second.append([name, *(_cell(row.levels[level]) for level in levels)])
    note = f"In brackets: {100 * confidence:g} % intervals, clustered by neuron."
    return f"{_table(first)}\n\n{_table(second)}\n\n{note}"


def _cell(estimate: Estimate) -> str:
    if estimate.mean is None:
        return "-"
    if estimate.interval is None:
        return f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} ({estimate.interval[0]:.2f}-{estimate.interval[1]:.2f})"


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([header, "|" + "---|" * len(lines[0]), *body])
