"""Channels of the published optimiser on real language models: a reference to compare other solvers with.

``python tests/bench/adamw_reference.py smollm2 FILE`` decomposes some neurons of early, middle and late layers with the
published settings, all vectors in one batch per projection, and writes FILE (safetensors) after every channel. A second
call with the same FILE continues after its last channel. SmolLM2 takes about an hour on one thread, Gemma several.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition import DecompositionConfig, adamw
from harness.decomposition.deflation import deflate, tail_mask
from harness.decomposition.objective import Objective, z_scores
from harness.records import VectorKind
from harness.run.help import compose_config
from harness.run.setup import Setup

#: Layer, kind and neurons of each subject. The neurons were fixed before any of them was decomposed.
PLACES: dict[str, list[tuple[int, str, tuple[int, ...]]]] = {
    "smollm2": [
        (2, "gate", (6, 700)), (2, "in", (6,)), (2, "out", (6,)),
        (15, "gate", (242, 700)), (15, "in", (242,)), (15, "out", (242,)),
        (27, "gate", (99, 700)), (27, "in", (99,)), (27, "out", (99,)),
    ],
    "gemma3_270m": [(2, "gate", (6,)), (9, "gate", (6,)), (9, "in", (6,)), (9, "out", (6,)), (16, "out", (6,))],
}  # fmt: skip


@torch.no_grad()
def main() -> None:
    """Find the channels one after the other, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=list(PLACES))
    parser.add_argument("file", type=Path)
    parser.add_argument("--channels", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Setup.of(compose_config([f"subject={options.subject}"])).subject
    places = PLACES[options.subject]
    # Stored by token: the products with a few vectors then take three quarters of the time.
    projection = subject.projection(0).float().T.contiguous().T
    base = subject.token_weights(0)
    vectors = torch.cat([subject.vectors(layer, list(rows), VectorKind(kind)) for layer, kind, rows in places]).float()
    config = DecompositionConfig(num_channels=options.channels, objective="published", solver="adamw")
    objective = Objective(projection, config.kurtosis_weight, config.fidelity_weight, published=True)
    targets = normalize(vectors, dim=-1)
    found = read_reference(options.file) if options.file.exists() else None
    channels, steps, seconds, masks = [], [], [], torch.zeros(len(targets), len(base), dtype=torch.bool)
    if found is not None:
        channels, steps, seconds = list(found[1].unbind(1)), found[2]["steps"], found[2]["seconds"]
    for earlier in channels:
        masks |= _mask(earlier, projection, config)
    for channel in range(len(channels), options.channels):
        start = time.perf_counter()
        weights = deflate(base.unsqueeze(0), masks, config.masked_token_weight)
        best, used = adamw.solve(objective, targets, weights, config.adamw, seed=config.seed, channel=channel)
        channels.append(normalize(best, dim=-1))
        masks |= _mask(channels[-1], projection, config)
        steps, seconds = [*steps, int(used[0])], [*seconds, round(time.perf_counter() - start, 1)]
        zero = (base == 0).nonzero().squeeze(-1).tolist()
        provenance = {
            "subject": subject.name, "sha256": str(compose_config([f"subject={options.subject}"]).subject.sha256),
            "sources": str(compose_config([f"subject={options.subject}"]).subject.sources),
            "places": places, "config": str(config), "seed": config.seed, "torch": torch.__version__,
            "steps": steps, "seconds": seconds, "threads": 1,
            "token_weights": {
                "rule": "0: these ids; 1e-4: norms of the projection's columns above their 99th percentile; else 1",
                "zero": _ranges(zero),
                "counts": {f"{value:g}": int((base == value).sum()) for value in sorted(set(base.tolist()))},
                "sha256": hashlib.sha256(base.numpy().tobytes()).hexdigest(),
            },
        }  # fmt: skip
        partial = options.file.with_suffix(".part")
        tensors = {"directions": torch.stack(channels, 1), "vectors": vectors}
        save_file(tensors, partial, {"json": json.dumps(provenance)})
        partial.replace(options.file)
        print(f"channel {channel}: {steps[-1]} steps, {seconds[-1]} s", flush=True)


def _mask(directions: Tensor, projection: Tensor, config: DecompositionConfig) -> Tensor:
    return tail_mask(z_scores(directions @ projection), config.mask_threshold, config.skew_threshold)


def read_reference(file: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the vectors (N, d_model), their channels (N, C, d_model) of unit length, and the provenance."""
    with safe_open(file, "pt") as stored:
        return stored.get_tensor("vectors"), stored.get_tensor("directions"), json.loads(stored.metadata()["json"])


def _ranges(ids: list[int]) -> list[list[int]]:
    """Return sorted ids as ranges, first and last id of each."""
    ranges: list[list[int]] = []
    for number in ids:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


if __name__ == "__main__":
    main()
