"""Checks the decomposition on a GPU against the CPU, and measures its speed at the shapes of real models.

Needs torch and pydantic only.

``python tests/gpu/measure.py [--device cuda] [--models gemma2_2b llama31_8b] [--vectors 2048] [--channels 4]``
prints a section for tests/bench/RESULTS.md and ends with a non-zero status if a check fails.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]

from synthetic import clustered_vocabulary, mixed_vectors  # noqa: E402 - the paths above come first

from harness.decomposition import DecompositionConfig, GeodesicConfig, decompose  # noqa: E402


@dataclass(frozen=True)
class Model:
    """The shapes of a model, and the published settings for it."""

    name: str
    layers: int
    d_mlp: int
    d_model: int
    tokens: int
    mask_threshold: float
    channels: int = 50
    kinds: int = 3

    @property
    def vectors(self) -> int:
        """Number of weight vectors of all neurons."""
        return self.layers * self.d_mlp * self.kinds

    def scaled(self, share: float) -> Model:
        """Return a smaller model of the same proportions, for machines without a GPU."""
        return replace(self, d_model=max(16, int(self.d_model * share)), tokens=max(2000, int(self.tokens * share)))


MODELS = {
    "gemma2_2b": Model("Gemma-2-2B", 26, 9216, 2304, 256_000, 4.0),
    "llama31_8b": Model("Llama-3.1-8B", 32, 14336, 4096, 128_256, 6.0),
}


def losses_against_float64(
    device: str, *, d_model: int = 256, tokens: int = 20_000, vectors: int = 32
) -> dict[str, Tensor]:
    """Return the losses (vectors, 2 channels) of each arithmetic minus those of float64 on the CPU."""
    projection = clustered_vocabulary(d_model, tokens)
    some = mixed_vectors(projection, vectors)
    config = DecompositionConfig(num_channels=2)
    exact = decompose(some.double(), projection.double(), config=config)
    ways = {
        "float32": GeodesicConfig(products="float32", compile=False),
        "tf32": GeodesicConfig(products="tf32", compile=False),
        "bfloat16": GeodesicConfig(products="bfloat16", compile=False),
        "default": GeodesicConfig(),
    }
    excess = {}
    for name, way in ways.items():
        found = decompose(some.to(device), projection.to(device), config=replace(config, geodesic=way))
        excess[name] = found.loss.double().cpu() - exact.loss
    return excess


def agrees(excess: Tensor) -> bool:
    """Return whether losses agree with float64: within 1e-3 for 90 %, and not worse on average.

    In rare cases rounding leads to another optimum, which is better as often as worse.
    """
    return bool((excess.abs() < 1e-3).double().mean() >= 0.9 and excess.mean() < 2e-3)


@dataclass(frozen=True)
class Throughput:
    """The result of one measurement.

    Attributes:
        rate: vectors x channels per second.
        flops: floating-point operations per second in the matrix products of the searches.
        steps: mean steps per channel.
        peak_bytes: peak memory, including the projection; 0 if not known.
        projection_bytes: size of the projection.
        losses: (vectors, channels).
    """

    rate: float
    flops: float
    steps: float
    peak_bytes: int
    projection_bytes: int
    losses: Tensor


def throughput(
    model: Model, device: str, *, vectors: int, channels: int, geodesic: GeodesicConfig | None = None
) -> Throughput:
    """Decompose ``vectors`` synthetic vectors of a model's shape, once to warm up and once measured."""
    projection = clustered_vocabulary(model.d_model, model.tokens, device=device)
    some = mixed_vectors(projection, vectors)
    config = DecompositionConfig(
        num_channels=channels, mask_threshold=model.mask_threshold, geodesic=geodesic or GeodesicConfig()
    )
    decompose(some[: max(1, vectors // 8)], projection, config=replace(config, num_channels=1))
    on_gpu = projection.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    found = decompose(some, projection, config=config)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    products = 2 * found.steps.sum().item() + 4 * found.steps.numel()
    return Throughput(
        rate=vectors * channels / seconds,
        flops=2.0 * model.d_model * model.tokens * products / seconds,
        steps=found.steps.double().mean().item(),
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        projection_bytes=projection.numel() * projection.element_size(),
        losses=found.loss.cpu(),
    )


def main() -> int:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--vectors", type=int, default=4096, help="vectors per measurement")
    parser.add_argument("--channels", type=int, default=4, help="channels per vector")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on d_model and V, to try the script on a CPU")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bfloat16 peak (H100, H200: 989)")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing measured (--device cpu --scale 0.05 tries the script)")
        return 1
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or "CPU"
    print(f"{datetime.date.today()}, {device}, torch {torch.__version__}\n")

    print("Losses (32 vectors, 2 channels, d_model 256, V 20,000) minus those of float64 on the CPU:\n")
    print("| products | mean | largest | within 1e-3 | |\n|---|---|---|---|---|")
    failed = False
    for name, excess in losses_against_float64(options.device).items():
        right = agrees(excess)
        failed |= not right
        share = (excess.abs() < 1e-3).double().mean()
        print(f"| {name} | {excess.mean():+.1e} | {excess.max():+.1e} | {share:.0%} | {'ok' if right else 'WRONG'} |")

    print("\n| model | products | vectors x channels / s | steps | share of peak | memory | hours for all |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models:
        model = MODELS[name] if options.scale == 1 else MODELS[name].scaled(options.scale)
        for way in (GeodesicConfig(), GeodesicConfig(products="tf32"), GeodesicConfig(compile=False)):
            seen = throughput(model, options.device, vectors=options.vectors, channels=options.channels, geodesic=way)
            hours = model.vectors * model.channels / seen.rate / 3600
            share = seen.flops / (options.peak_tflops * 1e12)
            words = way.products + (", not fused" if way.compile is False else "")
            memory = f"{seen.peak_bytes / 2**30:.1f} GiB" if seen.peak_bytes else "not known"
            print(
                f"| {model.name} ({model.d_model} x {model.tokens}) | {words} | {seen.rate:.1f} | {seen.steps:.1f} "
                f"| {share:.1%} | {memory} | {hours:.1f} |",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
