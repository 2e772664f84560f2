"""How often the explainer names concepts that are planted in its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records import PlantedAnswer, Status
from harness.results.rounding import count_statuses, mean, rounded_interval, total_usage
from harness.results.schema import ExplainerRow
from harness.stats.bootstrap import clustered_interval
from harness.stats.config import StatisticsConfig


def explainer_rows(
    answers: Iterable[PlantedAnswer], *, seed: int, config: StatisticsConfig
) -> tuple[ExplainerRow, ...]:
    """Return the explainer's share of named concepts: with all describers' prompts together, then with each one's.

    *Method.* Every answer that came counts, and one that is not usable names nothing: the question is how often a
    description of this explainer says what its evidence shows. The control that knows nothing is the same set of
    answers, compared with the concepts that they were not about. Intervals resample the concepts.

    *Degenerate cases.* Empty without answers. A planted concept without any answer (status failed) is counted and part
    of no share. ``chance`` is None with a single concept.

    Args:
        answers: the answers, in any order.
        seed: the run's seed, for the intervals.
        config: bootstrap samples and coverage of the intervals.
    """
    ordered = sorted(answers, key=lambda item: (item.describer, item.concept))
    if not ordered:
        return ()
    describers = sorted({item.describer for item in ordered})
    groups = [(name, [item for item in ordered if item.describer == name]) for name in describers]
    return tuple(_row(name, group, seed, config) for name, group in [(None, ordered), *groups])


def _row(describer: str | None, answers: Sequence[PlantedAnswer], seed: int, config: StatisticsConfig) -> ExplainerRow:
    came = [item for item in answers if item.status is not Status.FAILED]
    right = [float(item.concept in item.named) for item in came]
    concepts = {item.concept for item in answers}
    others = len(concepts) - 1
    bounds = clustered_interval(
        right, [item.concept for item in came], seed=seed, draws=config.draws, confidence=config.confidence
    )
    return ExplainerRow(
        describer=describer,
        right=mean(right),
        interval=rounded_interval(bounds),
        chance=mean([len(set(item.named) & concepts - {item.concept}) / others for item in came]) if others else None,
        answers=len(came),
        unusable=sum(item.status is not Status.OK for item in came),
        failed=len(answers) - len(came),
        statuses=count_statuses(item.status for item in answers),
        usage=total_usage(item.usage for item in answers),
    )
