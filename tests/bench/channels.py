"""Quality of channels on real language models: kurtosis, degenerate and repeated channels, cosine, span, seeds, time.

``python tests/bench/channels.py smollm2 --places 8:gate 20:in --neurons 4 --channels 50`` measures the default
solver; further arguments such as ``decomposition=best`` or ``decomposition.masked_token_weight=0`` change it.
``--reference FILE`` compares with the channels of ``adamw_reference.py``, on the same vectors, instead.

Kurtosis is over the tokens of positive weight, each counted once. A channel is degenerate if it is below 3, and
repeated if the Jaccard index of its top 20 tokens with those of an earlier channel of the vector is above 0.5.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from adamw_reference import read_reference
from torch import Tensor

from harness.decomposition import Decomposition, consistency, decompose, kurtosis, reconstruction
from harness.decomposition.measures import heavier_tail
from harness.records import VectorKind
from harness.run.help import compose_config
from harness.run.setup import Setup
from harness.stats.bootstrap import clustered_median_interval

TOP, DEGENERATE, REPEATED = 20, 3.0, 0.5


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject")
    parser.add_argument("overrides", nargs="*", help="options of a run, such as decomposition=best")
    parser.add_argument("--places", nargs="+", default=["8:gate", "20:in"], help="LAYER:KIND ...")
    parser.add_argument("--neurons", type=int, default=4, help="of each place, spread evenly over the layer")
    parser.add_argument("--channels", type=int, default=50)
    parser.add_argument("--jitter", type=float, help="also decompose again from starts this far away, and compare")
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setup = Setup.of(compose_config([f"subject={options.subject}", *options.overrides]))
    subject, projection, weights = setup.subject, setup.subject.projection(0), setup.subject.token_weights(0)
    config = setup.decomposition.config(0, VectorKind.OUT)
    if options.reference:
        vectors, theirs, provenance = read_reference(options.reference)
        options.channels = theirs.shape[1]
    else:
        groups = []
        for place in options.places:
            layer, kind = place.split(":")
            rows = np.linspace(0, subject.d_mlp, options.neurons, endpoint=False).astype(int) + 11
            groups.append(subject.vectors(int(layer), rows.tolist(), VectorKind(kind)))
        vectors = torch.cat(groups).float()
    config = replace(config, num_channels=options.channels)
    start = time.process_time()
    found = decompose(vectors, projection, token_weights=weights, config=config)
    seconds = time.process_time() - start
    print(f"{subject.name}, {len(vectors)} vectors, {options.channels} channels, {' '.join(options.overrides)}")
    ours = report("ours", vectors, found.directions, projection, weights > 0)
    print(
        f"  {seconds / found.kurtosis.numel():.2f} CPU seconds and {found.steps.float().mean():.0f} steps per channel"
    )
    if options.jitter:
        again = replace(config, seed=1, geodesic=replace(config.geodesic, jitter=options.jitter))
        second: Decomposition = decompose(vectors, projection, token_weights=weights, config=again)
        agreed = consistency(found.directions, second.directions, projection, top_tokens=TOP, tokens=weights > 0)
        print(f"  another start: cosine {agreed.cosine.mean():.3f}, Jaccard {agreed.jaccard.mean():.3f}")
    if options.reference:
        reference = report("reference", vectors, theirs.float(), projection, weights > 0)
        ratio = (ours.clamp_min(0).log1p() - reference.clamp_min(0).log1p()).numpy()
        neurons = [f"{layer} {index}" for layer, _, indices in provenance["places"] for index in indices]
        for rank, logs in enumerate(ratio.T):
            bounds = clustered_median_interval(logs, neurons, seed=0)
            assert bounds is not None
            low, middle, high = np.exp([bounds[0], np.median(logs), bounds[1]])
            print(f"  rank {rank + 1}: (1 + kurtosis), ours / reference, median {middle:.2f} ({low:.2f} to {high:.2f})")


def report(name: str, vectors: Tensor, directions: Tensor, projection: Tensor, counted: Tensor) -> Tensor:
    """Print the measures of channels (N, C, d_model), and return their kurtosis (N, C)."""
    sparsity, again = [], []
    for channels in directions:
        projected = channels @ projection
        sparsity.append(kurtosis(projected, counted))
        _, top = heavier_tail(projected, TOP, counted)
        shared = (top[:, None, :, None] == top[None, :, None, :]).any(dim=3).sum(dim=2)
        again.append((shared / (2 * TOP - shared) > REPEATED).tril(-1).any(dim=1))
    values, repeats = torch.stack(sparsity), torch.stack(again)[:, 1:]
    cosine = torch.cosine_similarity(directions, vectors.unsqueeze(1), dim=-1)
    print(
        f"  {name}: degenerate {(values < DEGENERATE).double().mean():.1%}, repeats {repeats.double().mean():.1%}, "
        f"kurtosis {values.quantile(0.5):.1f} (median), cosine {cosine.mean():.3f}, "
        f"span {reconstruction(vectors, directions)[:, -1].mean():.3f}"
    )
    shown = sorted({*range(min(10, values.shape[1])), *range(9, values.shape[1], 10)})
    medians = values.quantile(0.5, dim=0)
    print(f"  {name}, median kurtosis by rank: {', '.join(f'{rank + 1}: {medians[rank]:.1f}' for rank in shown)}")
    return values


if __name__ == "__main__":
    main()
