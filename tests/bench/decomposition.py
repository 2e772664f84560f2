"""Both ROTATE solvers side by side on real MiniLM neurons: time, steps and loss of the first channel, in one run.

``python tests/bench/decomposition.py [--neurons 8] [--layer 3] [--kind out] [--threads 1]``
"""

from __future__ import annotations

import argparse
import time

import torch

from harness.decomposition import Decomposition, DecompositionConfig, decompose
from harness.records import VectorKind
from harness.run.help import compose_config
from harness.run.setup import Setup


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=8, help="neurons, spread evenly over the layer")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--kind", type=VectorKind, default=VectorKind.OUT, choices=list(VectorKind))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, the same for both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    subject = Setup.of(compose_config(["subject=minilm"])).subject
    indices = list(range(0, subject.d_mlp, subject.d_mlp // options.neurons))[: options.neurons]
    vectors = subject.vectors(options.layer, indices, options.kind)
    projection, weights = subject.projection(options.layer), subject.token_weights(options.layer)

    def measure(solver: str) -> tuple[float, Decomposition]:
        config = DecompositionConfig(num_channels=1, solver=solver)  # type: ignore[arg-type]
        start = time.perf_counter()
        found = decompose(vectors, projection, token_weights=weights, config=config)
        return time.perf_counter() - start, found

    measure("geodesic")  # warms up both: allocator, threads
    seconds, geodesic = measure("geodesic")
    baseline, adamw = measure("adamw")
    again, _ = measure("geodesic")
    difference = geodesic.loss - adamw.loss
    print(
        f"MiniLM layer {options.layer} {options.kind}, {len(indices)} neurons, 1 channel, {options.threads} thread(s)"
    )
    print(f"torch {torch.__version__}; published settings for adamw")
    print(f"adamw     {baseline:8.2f} s  {adamw.steps.max():6d} steps       mean loss {adamw.loss.mean():.5f}")
    steps = geodesic.steps.float().mean()
    print(f"geodesic  {seconds:8.2f} s  {steps:6.1f} steps mean  mean loss {geodesic.loss.mean():.5f}")
    print(f"geodesic  {again:8.2f} s  (again, after adamw)")
    print(f"time ratio adamw / geodesic: {2 * baseline / (seconds + again):.0f}")
    print(f"share of neurons no worse (within 1e-3): {(difference <= 1e-3).float().mean():.2f}")


if __name__ == "__main__":
    main()
