"""Parts of the neurons by what is known of them, for which the leaderboard is broken down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from harness.records import Neuron, VectorSummary
from harness.results.comparisons import neuron_order

Facets = Mapping[str, Mapping[Neuron, str]]
"""For each way to divide the neurons, the part that each is in, by neuron at its sign; a neuron may be in none."""

THIRDS = ("low", "middle", "high")


def facets_of(neurons: Iterable[Neuron], vectors: Iterable[VectorSummary]) -> dict[str, dict[Neuron, str]]:
    """Return the parts of the neurons: by layer, sign, kurtosis of each weight vector, and the vector kind that leads.

    Kurtosis is that of a vector's own projection on the vocabulary, in thirds of equal size of the neurons at hand
    (ties fall to the lower third). ``vector kind`` is the kind whose projection has the highest kurtosis: where the
    neuron speaks plainest. A division into a single part is left out, and one by kurtosis with fewer than three
    neurons.

    Args:
        neurons: the neurons, at their signs.
        vectors: summaries of their weight vectors, of whole neurons; may be missing for some, or all.
    """
    ordered = sorted(set(neurons), key=neuron_order)
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
        here = {neuron: values[neuron.unsigned] for neuron in ordered if neuron.unsigned in values}
        whole = list({neuron.unsigned: value for neuron, value in here.items()}.values())
        if len(whole) >= len(THIRDS):
            bounds = np.quantile(whole, [1 / 3, 2 / 3])
            found[f"kurtosis of {kind}"] = {
                neuron: THIRDS[int(np.searchsorted(bounds, value))] for neuron, value in here.items()
            }
    return {name: parts for name, parts in found.items() if len(set(parts.values())) > 1}
