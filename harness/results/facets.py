"""Subsets of the neurons, such as layers, for which the leaderboard is broken down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from harness.records import Neuron, VectorSummary

Facets = Mapping[str, Mapping[Neuron, str]]
"""For each facet (a way to divide the neurons), the subset of each neuron at its sign; a neuron may be in none."""

THIRDS = ("low", "middle", "high")


def facets_of(neurons: Iterable[Neuron], vectors: Iterable[VectorSummary]) -> dict[str, dict[Neuron, str]]:
    """Divide the neurons by layer, sign, kurtosis of each weight vector, and vector kind with the highest kurtosis.

    Kurtosis is that of a weight vector's vocabulary projection, in thirds of equal size of these neurons (ties are in
    the lower third). Facets with a single subset are left out, and kurtosis with fewer than three neurons.

    Args:
        neurons: the neurons, at their signs.
        vectors: summaries of their weight vectors, without signs; may be missing for some or all neurons.
    """
    ordered = sorted(set(neurons))
    kurtosis: dict[str, dict[Neuron, float]] = {}
    for vector in vectors:
        if np.isfinite(vector.kurtosis):
            kurtosis.setdefault(str(vector.kind), {})[vector.neuron.unsigned] = vector.kurtosis
    found = {
        "layer": {neuron: str(neuron.layer) for neuron in ordered},
        "sign": {neuron: str(neuron.sign) for neuron in ordered},
        "vector kind": {},
    }
    for neuron in ordered:
        known = {
            kind: values[neuron.unsigned] for kind, values in sorted(kurtosis.items()) if neuron.unsigned in values
        }
        if len(known) == len(kurtosis) > 1:
            found["vector kind"][neuron] = max(known, key=known.__getitem__)
    for kind, values in sorted(kurtosis.items()):
        of_kind = {neuron: values[neuron.unsigned] for neuron in ordered if neuron.unsigned in values}
        unsigned = list({neuron.unsigned: value for neuron, value in of_kind.items()}.values())
        if len(unsigned) >= len(THIRDS):
            bounds = np.quantile(unsigned, [1 / 3, 2 / 3])
            found[f"kurtosis of {kind}"] = {
                neuron: THIRDS[int(np.searchsorted(bounds, value))] for neuron, value in of_kind.items()
            }
    return {name: parts for name, parts in found.items() if len(set(parts.values())) > 1}
