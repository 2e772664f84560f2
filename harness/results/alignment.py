"""Whether a list of tokens can describe the neurons of a layer at all, from the records of a run.

Per neuron, :mod:`harness.evidence.alignment` measures the correlation of activations with tokens, and
:mod:`harness.run.interventions.measure` that of the direct logit contribution with the measured effect. Here they are
aggregated by layer and kind, with intervals over neurons.

*Threshold.* A layer and kind is aligned if the mean of abs(r) is at least ``ALIGNED`` and the interval of its
difference from the control, the same correlation with another neuron's vector, lies above zero. With a large text the
second condition alone would call an r of 0.03 alignment.

*Degenerate cases.* A neuron whose activation or projection is constant has no r and is counted as undefined. With fewer
than two neurons there is no interval, and alignment is None.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from harness.folder import RunFolder
from harness.records import Against, Alignment, Effect, Neuron, VectorKind
from harness.results.formatting import number
from harness.results.rounding import mean, rounded_interval
from harness.results.schema import AlignmentRow
from harness.stats.bootstrap import Interval, clustered_intervals
from harness.stats.config import StatisticsConfig

#: Mean of abs(r) from which a layer and kind is aligned.
ALIGNED = 0.1
#: A neuron with at least this abs(r) counts in :attr:`AlignmentRow.share`.
STRONG = 0.2
#: r and its control for each neuron of a layer and kind.
Values = dict[Neuron, tuple[float | None, float | None]]


def alignment_of(folder: RunFolder, *, seed: int, config: StatisticsConfig) -> tuple[AlignmentRow, ...]:
    """Return the alignment of a run's neurons, ordered by layer, kind and what they are correlated with.

    Args:
        folder: the run folder.
        seed: the run's seed, for the bootstrap.
        config: draws and confidence of the intervals.
    """
    return alignment_rows(folder.read(Alignment), folder.read(Effect), seed=seed, config=config)


def alignment_rows(
    alignments: Iterable[Alignment], effects: Iterable[Effect], *, seed: int, config: StatisticsConfig
) -> tuple[AlignmentRow, ...]:
    """Return the rows of :func:`alignment_of` from the records.

    The r of a neuron with several effects (values, signs, splits) is the mean of theirs.
    """
    groups: defaultdict[tuple[int, VectorKind, Against], Values] = defaultdict(dict)
    for item in alignments:
        groups[item.neuron.layer, item.kind, item.against][item.neuron] = (item.r, item.control)
    measured: defaultdict[Neuron, list[Effect]] = defaultdict(list)
    for effect in effects:
        measured[effect.neuron.unsigned].append(effect)
    for neuron, own in measured.items():
        means = _mean(effect.direct for effect in own), _mean(effect.direct_control for effect in own)
        groups[neuron.layer, VectorKind.OUT, Against.EFFECT][neuron] = means
    order = list(Against)
    keys = sorted(groups, key=lambda key: (key[0], key[1], order.index(key[2])))
    return tuple(_row(*key, groups[key], seed, config) for key in keys)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _row(
    layer: int, kind: VectorKind, against: Against, values: Values, seed: int, config: StatisticsConfig
) -> AlignmentRow:
    neurons = sorted(neuron for neuron, (r, _) in values.items() if r is not None)
    own = [abs(values[neuron][0] or 0.0) for neuron in neurons]
    pairs = [(abs(r), abs(control)) for r, control in map(values.__getitem__, neurons) if None not in (r, control)]
    mean_abs, above = mean(own), mean([r - control for r, control in pairs])
    above_interval = _interval([r - control for r, control in pairs], seed, config)
    return AlignmentRow(
        layer=layer,
        kind=kind,
        against=against,
        neurons=len(neurons),
        undefined=len(values) - len(neurons),
        mean_abs=mean_abs,
        interval=_interval(own, seed, config),
        share=mean([float(r >= STRONG) for r in own]),
        control=mean([control for _, control in pairs]),
        above_control=above,
        above_interval=above_interval,
        aligned=None if above_interval is None or mean_abs is None else mean_abs >= ALIGNED and above_interval[0] > 0,
    )


def _interval(values: Sequence[float], seed: int, config: StatisticsConfig) -> Interval | None:
    """Return the interval of a mean with one value for each neuron."""
    if not values:
        return None
    table = np.array(values)[:, None]
    options = {"seed": seed, "draws": config.draws, "confidence": config.confidence}
    return rounded_interval(clustered_intervals(table, np.ones_like(table), **options)[0])


#: Title, kinds, what should correlate, and what does not follow without it, for the input and the output side.
_SIDES = (
    (
        "input",
        frozenset({VectorKind.IN, VectorKind.GATE}),
        "the activation correlates with the projection of the current or the next token on the neuron's vectors",
        "A list of tokens read from the weights cannot describe what these neurons respond to, so input-side results "
        "of such descriptions say little.",
    ),
    (
        "output",
        frozenset({VectorKind.OUT}),
        "the measured change of the logits correlates with the direct contribution of the neuron's out vector",
        "A list of tokens read from the weights cannot describe what these neurons do, so output-side results of such "
        "descriptions say little.",
    ),
)


def alignment_notices(rows: Sequence[AlignmentRow]) -> list[str]:
    """Return a warning for the input and the output side if it was measured and no layer of the run is aligned."""
    notices = []
    for side, kinds, what, consequence in _SIDES:
        tested = [row for row in rows if row.kind in kinds and row.aligned is not None]
        if not tested or any(row.aligned for row in tested):
            continue
        best = max(tested, key=lambda row: row.mean_abs or 0.0)
        notices.append(
            f"No alignment with tokens on the {side} side: in no layer of this run {what} (highest mean |r|: "
            f"{number(best.mean_abs)}, layer {best.layer} {best.kind}; {number(best.control)} with another neuron's "
            f"vector; {ALIGNED:g} is needed). {consequence}"
        )
    return notices
