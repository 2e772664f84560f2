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
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from harness.folder import RunFolder
from harness.records import Against, Alignment, Effect, Neuron, VectorKind
from harness.results.formatting import number
from harness.results.rounding import mean, rounded_interval
from harness.results.schema import AlignmentRow
from harness.stats.bootstrap import clustered_intervals
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
    return alignment_rows(folder.each(Alignment), folder.each(Effect), seed=seed, config=config)


def alignment_rows(
    alignments: Iterable[Alignment], effects: Iterable[Effect], *, seed: int, config: StatisticsConfig
) -> tuple[AlignmentRow, ...]:
    """Return the rows of :func:`alignment_of` from the records.

    The r of a neuron with several effects (values, signs, splits) is the mean of theirs.
    """
    groups: defaultdict[tuple[int, VectorKind, Against], Values] = defaultdict(dict)
    for item in alignments:
        groups[item.neuron.layer, item.kind, item.against][item.neuron] = (item.r, item.control)
    measured: defaultdict[Neuron, list[tuple[float | None, float | None]]] = defaultdict(list)
    for effect in effects:
        measured[effect.neuron.unsigned].append((effect.direct, effect.direct_control))
    for neuron, own in measured.items():
        direct, control = map(_mean, zip(*own, strict=True))
        groups[neuron.layer, VectorKind.OUT, Against.EFFECT][neuron] = direct, control
    rows: list[AlignmentRow] = []
    for layer in sorted({layer for layer, _, _ in groups}):
        of_layer = {(kind, against): values for (one, kind, against), values in groups.items() if one == layer}
        rows += _rows(layer, of_layer, seed, config)
    return tuple(rows)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _rows(
    layer: int, groups: Mapping[tuple[VectorKind, Against], Values], seed: int, config: StatisticsConfig
) -> Iterator[AlignmentRow]:
    """Yield the rows of a layer. All their intervals come from the same resampled neurons."""
    order, neurons = list(Against), sorted({neuron for values in groups.values() for neuron in values})
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1])))
    # By neuron, row, and |r| or that of the control, NaN where it is not defined.
    sizes = np.array(
        [
            [[math.nan if r is None else abs(r) for r in groups[key].get(one, (None, None))] for key in keys]
            for one in neurons
        ]
    )
    measured = np.stack([sizes[:, :, 0], sizes[:, :, 0] - sizes[:, :, 1]], axis=2)
    known = ~np.isnan(measured)
    table, counts = (values.reshape(len(neurons), -1) for values in (np.where(known, measured, 0), known))
    found = clustered_intervals(table, counts, seed=seed, draws=config.draws, confidence=config.confidence)
    for place, (kind, against) in enumerate(keys):
        own, above, control = (
            [float(value) for value in values if not math.isnan(value)]
            for values in (measured[:, place, 0], measured[:, place, 1], sizes[:, place, 1])
        )
        mean_abs, interval, above_interval = mean(own), *map(rounded_interval, found[2 * place : 2 * place + 2])
        yield AlignmentRow(
            layer=layer,
            kind=kind,
            against=against,
            neurons=len(own),
            undefined=len(groups[kind, against]) - len(own),
            mean_abs=mean_abs,
            interval=interval,
            share=mean([float(r >= STRONG) for r in own]),
            control=mean(control),
            above_control=mean(above),
            above_interval=above_interval,
            aligned=None
            if above_interval is None or mean_abs is None
            else mean_abs >= ALIGNED and above_interval[0] > 0,
        )


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
