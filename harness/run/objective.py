"""The metric that a sweep optimises (``sweep.metric``): whether a run will have it, and its value."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.methods import Comparator
from harness.records import Against, VectorKind
from harness.results import columns
from harness.results.columns import Metric, available
from harness.results.diagnostics import diagnostics_groups
from harness.results.schema import Leaderboard
from harness.results.summary import summary_of_run
from harness.run.setup import Setup


def check_metric(name: str | None, setup: Setup) -> None:
    """Check that a run of this setup can have the metric; None needs no check.

    Raises:
        HarnessError: if it cannot; the message names similar metrics.
    """
    if name is None:
        return
    known = list(_names(setup))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
        raise HarnessError(
            f"sweep.metric: this run has no metric {name!r}; it has {len(known)}, such as {', '.join(near)}"
        )


def read_metric(name: str, folder: RunFolder, leaderboard: Leaderboard) -> float:
    """Return the value of a metric of a finished run.

    Raises:
        HarnessError: if it has no value.
    """
    value = summary_of_run(folder, leaderboard, diagnostics_groups(folder)).get(name)
    if value is None:
        raise HarnessError(f"sweep.metric: {name} has no value in this run, because nothing was observed for it")
    return float(value)


def _names(setup: Setup) -> Iterator[str]:
    """Yield the numeric metrics that :func:`harness.results.summary.summary_of_run` may return for such a run."""
    if setup.comparators:
        for describer in setup.describers:
            yield from _named(columns.BOARD, f"{{key}}/{describer}", set())
            for opponent in setup.describers:
                if opponent != describer:
                    yield from _named(columns.PAIRS, f"{{key}}/{describer}/{opponent}", set())
        yield "best/win_rate"
    for judge in setup.scorers:
        for describer in setup.describers:
            yield from _named(columns.SCORES, f"{{key}}/{judge}/{describer}", set())
    if setup.report_corpus is not None:
        for measure in (*(["win_rate"] if setup.comparators else []), *setup.scorers):
            for describer in setup.describers:
                yield from _named(columns.SHIFT, f"corpus_shift/{measure}/{describer}/{{key}}", set())
    for evidence, made in (("same", setup.draws.repeated), ("resampled", setup.draws.resampled)):
        for describer in setup.describers if made else ():
            yield from _named(columns.STABILITY, f"{{key}}/{evidence}/{describer}", set())
    for judge, conditions in _judges(setup):
        yield from _named((*columns.HEALTH, *columns.CHECKS), f"judge/{judge}/{{key}}", conditions)
    yield from (f"failed/{method}" for method in (*setup.describers, *setup.judges))
    if setup.compares:
        for layer in sorted({neuron.layer for neuron in setup.neurons}):
            for kind, against in _alignments(setup):
                yield from _named(columns.ALIGNMENT, f"alignment/{layer}/{kind}/{against}/{{key}}", set())
        used = {role for method in (*setup.describers.values(), *setup.judges.values()) for role in method.roles}
        priced = {role: setup.backends[role].price is not None for role in sorted(used & setup.backends.keys())}
        for role, price in priced.items():
            yield from _named(columns.COSTS, f"cost/{role}/{{key}}", {"one role", *["price"] * price})
        price = bool(priced) and all(priced.values())
        yield from _named(columns.COSTS, "cost/{key}", {"all roles", *["price"] * price})
    yield from _named(columns.DIAGNOSTICS, "decomposition/{key}", set())


def _alignments(setup: Setup) -> Iterator[tuple[VectorKind, Against]]:
    """Yield what a run correlates in each layer: kind of vector, and with what."""
    for kind in setup.subject.kinds:
        if kind is not VectorKind.OUT:
            yield from ((kind, against) for against in (Against.CURRENT, Against.NEXT))
    if setup.effect_splits:
        yield VectorKind.OUT, Against.EFFECT


def _named(metrics: tuple[Metric, ...], name: str, conditions: set[str]) -> Iterator[str]:
    return (name.format(key=metric.key) for metric in available(metrics, conditions))


def _judges(setup: Setup) -> Iterator[tuple[str, set[str]]]:
    """Yield the judges, and the members of panels, each with the conditions that its metrics need."""
    checked = set()
    if any(describer.corruption is not None for describer in setup.describers.values()):
        checked |= {"known quality", "checked"}
    if setup.comparisons.retest:
        checked |= {"retest", "checked"}
    human = {name for name, judge in setup.comparators.items() if any(one.is_human for one in judge.walk)}
    for name, panel in setup.comparators.items():
        members: dict[str, Comparator] = getattr(panel, "members", {})
        for judge, comparator in {name: panel, **{f"{name}/{key}": inner for key, inner in members.items()}}.items():
            further = {"top level": judge == name, "both orders": not comparator.symmetric, "LLM": comparator.roles}
            further["people"] = bool(human) and name not in human
            yield judge, {"comparator", *checked, *(condition for condition, holds in further.items() if holds)}
    for name in setup.scorers:
        yield name, checked
