"""How much of what was planted the describers of a finished run found, from its records and the truth alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.planted.checkpoint import TRUTH
from harness.planted.naming import naming
from harness.planted.planting import truth_of
from harness.planted.settings import Planting
from harness.planted.truth import Planted, Seen, Truth
from harness.records import Description, Neuron, Status
from harness.results.comparability import statistics_of
from harness.stats.bootstrap import clustered_interval
from harness.stats.config import StatisticsConfig


@dataclass(frozen=True)
class Figure:
    """A mean with its interval.

    Attributes:
        mean: share between 0 and 1; none if nothing was counted.
        interval: its bootstrap interval, clustered by neuron; none with fewer than two neurons.
        count: concepts (of a recall) or descriptions (of a precision) behind it.
    """

    mean: float | None
    interval: tuple[float, float] | None
    count: int


FigureOf = Callable[[Sequence[float], Sequence[Neuron]], Figure]


@dataclass(frozen=True)
class RecallRow:
    """What one describer found.

    Attributes:
        describer: its name.
        control: whether it is a control.
        recall: share of all planted concepts that it named, over all neurons with a description.
        seen: the same by where a concept could be found out.
        levels: the same by difficulty.
        precision: mean share of a description's words that belong to a concept of its neuron.
        mean_words: mean length of the same descriptions, in words that count for precision; none if there are none.
        unplanted: descriptions of neurons at a sign in which nothing was planted, which count nowhere else: whatever
            they say, it cannot hit.
        failed: neurons that it has no description of, which count nowhere else.
    """

    describer: str
    control: bool
    recall: Figure
    seen: dict[Seen, Figure]
    levels: dict[str, Figure]
    precision: Figure
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

    A recall's observations are the concepts of all neurons, so neurons weigh by how many they have.

    Args:
        truth: what was planted.
        descriptions: of planted neurons.
        controls: names of the describers that are controls.
        words: different words of a concept that name it together (:func:`harness.planted.naming.naming`).
        seed: of the bootstrap.
        config: how many samples it draws, and the intervals' coverage; none for the defaults.

    Returns:
        By recall, the highest first, then by name.

    Raises:
        HarnessError: if a description is of a neuron in which nothing was planted.
    """
    by_describer: dict[str, list[Description]] = {}
    for description in sorted(descriptions, key=lambda item: (item.describer, item.neuron)):
        by_describer.setdefault(description.describer, []).append(description)
    held = set(controls)
    figure_of = partial(_figure, seed=seed, config=config or StatisticsConfig())
    rows = [_row(truth, name, name in held, given, words, figure_of) for name, given in by_describer.items()]
    return sorted(rows, key=lambda row: (-(row.recall.mean or 0.0), row.describer))


def _row(
    truth: Truth, name: str, control: bool, given: Sequence[Description], words: int, figure_of: FigureOf
) -> RecallRow:
    told = [item for item in given if item.status is Status.OK]
    made = [item for item in told if truth.planted(item.neuron)]
    found = [(item.neuron, truth.planted(item.neuron)) for item in made]
    said = [naming(item.text, planted, words) for item, (_, planted) in zip(made, found, strict=True)]
    named: list[tuple[Neuron, Planted, bool]] = [
        (neuron, item, hit)
        for (neuron, planted), one in zip(found, said, strict=True)
        for item, hit in zip(planted, one.named, strict=True)
    ]

    def recall(counts: Callable[[Neuron, Planted], bool]) -> Figure:
        chosen = [(neuron, hit) for neuron, item, hit in named if counts(neuron, item)]
        return figure_of([float(hit) for _, hit in chosen], [neuron.unsigned for neuron, _ in chosen])

    def level(neuron: Neuron) -> str:
        return truth.neuron(neuron).level

    precise = [(item.neuron.unsigned, one.precision) for item, one in zip(made, said, strict=True)]
    counted = [(neuron, value) for neuron, value in precise if value is not None]
    return RecallRow(
        describer=name,
        control=control,
        recall=recall(lambda _neuron, _item: True),
        seen={seen: recall(lambda _neuron, item, seen=seen: item.seen is seen) for seen in Seen},  # type: ignore[misc]
        levels={
            name: recall(lambda neuron, _item, name=name: level(neuron) == name)  # type: ignore[misc]
            for name in dict.fromkeys(neuron.level for neuron in truth.neurons)
        },
        precision=figure_of([value for _, value in counted], [neuron for neuron, _ in counted]),
        mean_words=sum(one.words for one in said) / len(said) if said else None,
        unplanted=len(told) - len(made),
        failed=len(given) - len(told),
    )


def _figure(values: Sequence[float], clusters: Sequence[Neuron], *, seed: int, config: StatisticsConfig) -> Figure:
    if not values:
        return Figure(None, None, 0)
    interval = clustered_interval(values, clusters, seed=seed, draws=config.draws, confidence=config.confidence)
    rounded = None if interval is None else (round(interval[0], 6), round(interval[1], 6))
    return Figure(round(sum(values) / len(values), 6), rounded, len(values))


def rows_of_run(folder: RunFolder, *, words: int = 2) -> tuple[Truth, list[RecallRow]]:
    """Read a finished run on a planted subject.

    Raises:
        HarnessError: if the folder holds no run, or one on another subject.
    """
    manifest = folder.read_manifest()
    subject: Mapping[str, Any] = manifest["config"]["subject"]
    if "planting" not in subject:
        raise HarnessError(f"the subject of {folder.path} is {subject.get('name')}, in which nothing was planted")
    planting = Planting.of(subject["planting"])
    written = Path(subject["cache"]).expanduser() / planting.key / TRUTH
    truth = Truth.read(written) if written.is_file() else truth_of(planting)
    controls = [name for name, contestant in manifest["contestants"].items() if contestant["control"]]
    return truth, recall_rows(
        truth,
        folder.descriptions().records(),
        controls,
        words=words,
        seed=manifest["seed"],
        config=statistics_of(manifest),
    )


def markdown(rows: Sequence[RecallRow], confidence: float) -> str:
    """Return the rows as two Markdown tables: by where a concept could be found out, and by difficulty.

    Args:
        rows: the rows.
        confidence: coverage of their intervals.
    """
    seen = [place for place in Seen if any(row.seen[place].count for row in rows)]
    levels = list(rows[0].levels) if rows else []
    first = [["", "recall", *(f"in {place}" if place is not Seen.OUTPUT else "promoted" for place in seen)]]
    unplanted = any(row.unplanted for row in rows)
    first[0] += ["precision", "words", *(["nothing planted"] if unplanted else []), "failed"]
    second = [["recall by difficulty", *levels]]
    for row in rows:
        name = f"{row.describer} (control)" if row.control else row.describer
        length = "-" if row.mean_words is None else f"{row.mean_words:.0f}"
        figures = [row.recall, *(row.seen[place] for place in seen), row.precision]
        counts = [str(row.unplanted)] if unplanted else []
        first.append([name, *map(_cell, figures), length, *counts, str(row.failed)])
        second.append([name, *(_cell(row.levels[level]) for level in levels)])
    note = f"In brackets: {100 * confidence:g} % intervals, clustered by neuron."
    return f"{_table(first)}\n\n{_table(second)}\n\n{note}"


def _cell(figure: Figure) -> str:
    if figure.mean is None:
        return "-"
    if figure.interval is None:
        return f"{figure.mean:.2f}"
    return f"{figure.mean:.2f} ({figure.interval[0]:.2f}-{figure.interval[1]:.2f})"


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([header, "|" + "---|" * len(lines[0]), *body])
