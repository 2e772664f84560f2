"""First channels with and without the detected tokens: ``python tests/bench/token_weights.py [minilm|smollm2|...]``."""

from __future__ import annotations

import argparse

import torch

from harness.decomposition import DecompositionConfig, decompose, z_scores
from harness.records import VectorKind
from harness.run.help import compose_config
from harness.run.setup import Setup

LAYERS = {"minilm": (0, 1, 3, 5), "smollm2": (0, 8, 15, 29), "gemma3_270m": (0, 9, 17)}
NEURONS = 32


def main() -> None:
    """Print the census, and how the first channels differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", nargs="?", default="minilm", choices=list(LAYERS))
    name = parser.parse_args().subject
    torch.set_num_threads(1)
    plain, subject = (
        Setup.of(compose_config([f"subject={name}", *more])).subject
        for more in (["subject.token_weighting.detect=[]"], [])
    )
    for group in subject.token_census(0):
        print(f"| {group.name} | {group.weight:g} | {group.count} | {' '.join(map(repr, group.examples))} |")
    detected = torch.tensor(sorted(subject.unused_token_ids - plain.unused_token_ids))
    projection, config = subject.projection(0), DecompositionConfig(num_channels=1)
    for layer in LAYERS[name]:
        for kind in (VectorKind.IN, VectorKind.OUT):
            vectors = subject.vectors(layer, range(NEURONS), kind)
            without, found = (
                decompose(vectors, projection, token_weights=model.token_weights(layer), config=config)
                for model in (plain, subject)
            )
            shares = []
            for directions in (without.directions, found.directions):
                z = z_scores(directions[:, 0] @ projection)
                top = (z * z.pow(3).mean(dim=1, keepdim=True).sign()).topk(10).indices
                shares.append(float(torch.isin(top, detected).float().mean()))
            cosine = torch.cosine_similarity(without.directions[:, 0], found.directions[:, 0])
            print(
                f"| {layer} {kind} | {shares[0]:.3f} | {shares[1]:.3f} | {cosine.mean():.3f} | "
                f"{(cosine < 0.99).sum()} of {NEURONS} | {without.kurtosis.mean():.1f} | {found.kurtosis.mean():.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
