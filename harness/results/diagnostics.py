"""Diagnostics of the decomposition by layer and vector kind, from a run's records."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.folder import RunFolder
from harness.records import AblatedChannels, RandomVector, Restart, TextAblation, VectorKind
from harness.stats.bootstrap import Interval, clustered_intervals

Floats = NDArray[np.float64]
QUANTILE = 0.05
"""A neuron counts as below the baseline if its loss is below this quantile of the losses of random vectors."""


@dataclass(frozen=True)
class DiagnosticsGroup:
    """Records of one layer and kind: n vectors with at most C channels each, nan for missing channels.

    Attributes:
        layer: the layer; None for all.
        kind: the vector kind; None for all.
        vector_kurtosis: (n,), excess kurtosis of the weight vectors' vocabulary projections, in order of neurons.
        kurtosis: (n, C), excess kurtosis of their channels, by rank.
        skewness: (n, C), skewness of the channels.
        cosine: (n, C), cosine of channel and weight vector.
        loss: (n, C), loss of the channels.
        masked_tokens: (n, C), number of tokens in each channel's mask.
        reconstruction: (n, C), fraction of the squared norm in the span of the first channels, padded with its last
            value.
        restarts: vectors of this group that were decomposed again.
        random: random vectors that were decomposed in the same way.
        ablations: vectors of this group whose channels were removed.
        text_ablations: vectors of this group whose channels were removed while the model read text.
        neurons: (n,), a number for the neuron of each vector, the same for its vectors of other kinds.
    """

    layer: int | None
    kind: VectorKind | None
    vector_kurtosis: Floats
    kurtosis: Floats
    skewness: Floats
    cosine: Floats
    loss: Floats
    masked_tokens: Floats
    reconstruction: Floats
    restarts: tuple[Restart, ...] = ()
    random: tuple[RandomVector, ...] = ()
    ablations: tuple[AblatedChannels, ...] = ()
    text_ablations: tuple[TextAblation, ...] = ()
    neurons: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class DiagnosticsRow:
    """Metrics of one layer and kind, None without data; :data:`harness.results.columns.DIAGNOSTICS` defines them."""

    layer: int | None
    kind: VectorKind | None
    vectors: int
    found: int
    channels: int
    vector_kurtosis: float | None
    first_kurtosis: float | None
    first_cosine: float | None
    cosine: float | None
    reconstruction: float | None
    positive: float | None
    again: int
    consistency: float | None
    jaccard: float | None
    apart: float | None
    random: int
    random_first_kurtosis: float | None
    first_loss: float | None
    random_first_loss: float | None
    below: float | None
    chance_below: float | None
    ablated: int
    faithful: float | None
    faithful_chance: float | None
    random_faithful: float | None
    kept: float | None
    complete: float | None
    complete_chance: float | None
    random_complete: float | None
    text_ablated: int
    text_positions: int
    text_faithful: float | None
    text_faithful_interval: Interval | None
    text_random: float | None
    text_random_interval: Interval | None
    text_another: float | None
    text_another_interval: Interval | None
    text_embedding: float | None
    text_embedding_interval: Interval | None
    text_elsewhere: float | None
    text_elsewhere_interval: Interval | None
    text_complete: float | None
    text_complete_interval: Interval | None
    text_complete_random: float | None
    text_complete_random_interval: Interval | None


def diagnostics_groups(folder: RunFolder) -> tuple[DiagnosticsGroup, ...]:
    """Read the metrics of all decomposed vectors and channels, without tokens, ordered by layer and kind."""
    vectors = _columns(folder, "vectors", ["neuron", "kind", "kurtosis", "reconstruction"])
    channels = _columns(folder, "channels", ["neuron", "kind", "rank", *_OF_CHANNELS])
    if vectors is None or channels is None:
        return ()
    restarts, random, ablations = defaultdict(list), defaultdict(list), defaultdict(list)
    on_text = defaultdict(list)
    for again in folder.read(Restart):
        restarts[again.neuron.layer, again.kind].append(again)
    for drawn in folder.read(RandomVector):
        random[drawn.layer, drawn.kind].append(drawn)
    for ablated in folder.read(AblatedChannels):
        ablations[ablated.neuron.layer, ablated.kind].append(ablated)
    for ablation in folder.read(TextAblation):
        on_text[ablation.neuron.layer, ablation.kind].append(ablation)
    rows_of, channels_of = _by_group(vectors), _by_group(channels)
    return tuple(
        DiagnosticsGroup(
            *group,
            **_measured(vectors.take(rows), channels.take(channels_of[group])),
            restarts=tuple(restarts[group]),
            random=tuple(random[group]),
            ablations=tuple(ablations[group]),
            text_ablations=tuple(on_text[group]),
        )
        for group, rows in sorted(rows_of.items())
    )


_OF_CHANNELS = ("kurtosis", "skewness", "cosine", "loss", "masked_tokens")
_LAYER_STRIDE, _EXPERT_STRIDE = 1 << 48, 1 << 32


def _columns(folder: RunFolder, records: str, columns: Sequence[str]) -> pa.Table | None:
    tables = list(folder.read_columns(records, columns))
    # The column of experts exists only if there are some.
    return pa.concat_tables(tables, promote_options="default") if tables else None


def _by_group(table: pa.Table) -> dict[tuple[int, VectorKind], NDArray[np.int64]]:
    layers, kinds = table["neuron.layer"].to_numpy(), table["kind"].to_numpy()
    groups = {}
    for layer in np.unique(layers):
        for kind in VectorKind:
            rows = np.flatnonzero((layers == layer) & (kinds == kind.value))
            if len(rows):
                groups[int(layer), kind] = rows
    return groups


def _neuron_keys(table: pa.Table) -> NDArray[np.int64]:
    """Return a number for each row's neuron that sorts like the neurons."""
    layers, indices = (table[f"neuron.{name}"].to_numpy().astype(np.int64) for name in ("layer", "index"))
    keys: NDArray[np.int64] = _LAYER_STRIDE * layers + indices
    if "neuron.expert" in table.column_names:
        keys = keys + _EXPERT_STRIDE * (table["neuron.expert"].fill_null(-1).to_numpy().astype(np.int64) + 1)
    return keys


def _measured(vectors: pa.Table, channels: pa.Table) -> dict[str, Any]:
    keys = _neuron_keys(vectors)
    order = np.argsort(keys)
    row, rank = np.searchsorted(keys[order], _neuron_keys(channels)), channels["rank"].to_numpy()
    found = {name: np.full((len(keys), rank.max() + 1), np.nan) for name in _OF_CHANNELS}
    for name, table in found.items():
        table[row, rank] = channels[name].to_numpy()
    reconstruction = _rectangle_of(vectors["reconstruction"].combine_chunks())[order]
    kurtosis = vectors["kurtosis"].to_numpy()[order]
    return {"vector_kurtosis": kurtosis, "reconstruction": reconstruction, "neurons": keys[order], **found}


def _rectangle_of(curves: pa.ListArray) -> Floats:
    lengths = curves.value_lengths().to_numpy()
    if len(lengths) and (lengths == lengths[0]).all():  # fast path: a whole model has millions of points
        values: Floats = curves.flatten().to_numpy().reshape(len(lengths), lengths[0])
        return values
    return rectangle(curves.to_pylist())


def together(groups: Sequence[DiagnosticsGroup]) -> DiagnosticsGroup:
    """Return all groups as one group without layer and kind."""
    most = max(group.kurtosis.shape[1] for group in groups)

    def stacked(name: str) -> Floats:
        last = {"mode": "edge"} if name == "reconstruction" else {"constant_values": np.nan}
        tables = [getattr(group, name) for group in groups]
        return np.concatenate([np.pad(table, ((0, 0), (0, most - table.shape[1])), **last) for table in tables])

    return DiagnosticsGroup(
        layer=None,
        kind=None,
        vector_kurtosis=np.concatenate([group.vector_kurtosis for group in groups]),
        restarts=tuple(item for group in groups for item in group.restarts),
        random=tuple(item for group in groups for item in group.random),
        ablations=tuple(item for group in groups for item in group.ablations),
        text_ablations=tuple(item for group in groups for item in group.text_ablations),
        neurons=np.concatenate([group.neurons for group in groups]),
        **{name: stacked(name) for name in ("reconstruction", *_OF_CHANNELS)},
    )


def rectangle(curves: Sequence[Sequence[float]]) -> Floats:
    """Return curves as one table; shorter ones are padded with their last value."""
    length = max(map(len, curves), default=0)
    return np.array([[*curve, *[curve[-1]] * (length - len(curve))] for curve in curves if len(curve)])


def diagnostics_row(group: DiagnosticsGroup) -> DiagnosticsRow:
    """Return the metrics of one layer and kind."""
    losses, random_losses = group.loss[:, 0], np.array([item.loss[0] for item in group.random])
    compared = len(losses) > 0 and len(random_losses) > 0
    return DiagnosticsRow(
        layer=group.layer,
        kind=group.kind,
        vectors=len(group.vector_kurtosis),
        found=int(np.count_nonzero(~np.isnan(group.kurtosis))),
        channels=group.kurtosis.shape[1],
        vector_kurtosis=_median(group.vector_kurtosis),
        first_kurtosis=_median(group.kurtosis[:, 0]),
        first_cosine=_mean(group.cosine[:, 0]),
        cosine=_mean(group.cosine),
        reconstruction=_mean(group.reconstruction[:, -1]) if group.reconstruction.size else None,
        positive=_mean(group.skewness[~np.isnan(group.skewness)] >= 0),
        again=len({(item.neuron, item.kind) for item in group.restarts}),
        consistency=_mean([value for item in group.restarts for value in item.cosine]),
        jaccard=_mean([value for item in group.restarts for value in item.jaccard]),
        apart=_mean([item.apart for item in group.restarts if item.apart is not None]),
        random=len(group.random),
        random_first_kurtosis=_median([item.channel_kurtosis[0] for item in group.random]),
        first_loss=_median(losses),
        random_first_loss=_median(random_losses),
        below=share_below(losses, random_losses) if compared else None,
        chance_below=chance_below(losses, random_losses) if compared else None,
        ablated=len(group.ablations),
        faithful=_mean([value for item in group.ablations for value in item.faithful if value is not None]),
        faithful_chance=_mean([value for item in group.ablations for value in item.chance]),
        random_faithful=_mean([value for item in group.random for value in item.faithful if value is not None]),
        kept=_mean([value for item in group.ablations for value in item.kept if value is not None]),
        complete=_mean([item.complete for item in group.ablations if item.complete is not None]),
        complete_chance=_mean([item.complete_chance for item in group.ablations]),
        random_complete=_mean([item.complete for item in group.random if item.complete is not None]),
        **lost_on_text(group.text_ablations),
    )


def lost_on_text(items: Sequence[TextAblation]) -> dict[str, Any]:
    """Return the metrics of ablations on text, with intervals that resample neurons.

    Shares lost are sums over all channels, so that a channel counts by the neuron's response at its positions.
    """
    neurons = sorted({item.neuron for item in items})
    totals = np.zeros((2, len(neurons), len(_LOST)))  # lost or left, and the response: neurons x metrics
    for item in items:
        row = neurons.index(item.neuron)
        for column, (_, lost, response) in enumerate(_LOST):
            for part, whole in zip(lost(item), response(item), strict=True):
                if part is not None:
                    totals[:, row, column] += part, whole
    sums = totals.sum(axis=1)
    intervals = clustered_intervals(totals[0], totals[1], seed=0) if items else [None] * len(_LOST)
    found: dict[str, Any] = {
        "text_ablated": len(items),
        "text_positions": sum(sum(item.positions) for item in items),
    }
    for column, (name, *_) in enumerate(_LOST):
        found[name] = round(float(sums[0, column] / sums[1, column]), 5) if sums[1, column] > 0 else None
        bounds = intervals[column]
        found[f"{name}_interval"] = None if bounds is None else tuple(round(bound, 5) for bound in bounds)
    return found


def _lost(left: str) -> tuple[Callable[[TextAblation], Any], Callable[[TextAblation], Any]]:
    """Return functions for the response lost by channel (None where it is not measured), and the response."""

    def lost(item: TextAblation) -> list[float | None]:
        pairs = zip(item.response, getattr(item, left), strict=True)
        return [None if rest is None else response - rest for response, rest in pairs]

    return lost, lambda item: item.response


def _share(name: str) -> tuple[Callable[[TextAblation], Any], Callable[[TextAblation], Any]]:
    """Return functions for shares lost, one for each channel or for the vector, and their weights, which are 1."""

    def shares(item: TextAblation) -> tuple[float | None, ...]:
        value = getattr(item, name)
        return value if isinstance(value, tuple) else (value,)

    return shares, lambda item: [1] * len(shares(item))


_LOST = (
    ("text_faithful", *_lost("channel")),
    ("text_random", *_lost("random")),
    ("text_another", *_lost("another")),
    ("text_embedding", *_lost("embedding")),
    ("text_elsewhere", *_share("elsewhere")),
    ("text_complete", *_share("complete")),
    ("text_complete_random", *_share("complete_random")),
)


def share_below(values: Floats, baseline: Floats, quantile: float = QUANTILE) -> float:
    """Return the fraction of ``values`` below a quantile of ``baseline``.

    About ``quantile`` if both have the same distribution.
    """
    return float(np.mean(values < np.quantile(baseline, quantile)))


def chance_below(values: Floats, baseline: Floats) -> float:
    """Return the probability that a random one of ``values`` is below a random one of ``baseline``, ties as half.

    1/2 if both have the same distribution. For a small baseline it is less noisy than a quantile.
    """
    ordered = np.sort(baseline)
    reached = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return float(1 - np.mean(reached) / (2 * len(baseline)))


def diagnostics_json(groups: Sequence[DiagnosticsGroup]) -> dict[str, Any]:
    """Return the metrics by layer and kind (``rows``) and over all (``total``; None without rows), as JSON types."""
    rows = [dataclasses.asdict(diagnostics_row(group)) for group in groups]
    return {"rows": rows, "total": dataclasses.asdict(diagnostics_row(together(groups))) if groups else None}


def _mean(values: Any, centre: Callable[[Floats], Any] = np.nanmean) -> float | None:
    array = np.asarray(values, dtype=float)
    return round(float(centre(array)), 5) if array.size else None


_median = partial(_mean, centre=np.nanmedian)
