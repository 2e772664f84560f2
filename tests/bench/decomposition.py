"""Compares this project's solver with the published one in time and results, on equal threads.

``python tests/bench/decomposition.py [SECTION ...]`` prints every target with the measured value. Sections:

- ``step``: time per step compared with its two matrix products;
- ``growth``: growth of time with N, V, d_model and C;
- ``memory``: peak memory compared with the budget;
- ``joined``: one call for few vectors of many layers compared with one call for each layer and kind;
- ``order``: whether the channels depend on the other vectors of the call and their order, for several tolerances;
- ``first``: the first channel of 64 neurons of two layers compared with adamw (about forty minutes);
- ``channels``: ten channels compared with adamw (hours at 256 neurons; reduce with --channel-neurons).

Default: all but ``channels``.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from peak import above, resident
from synthetic import clustered_vocabulary, mixed_vectors
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition import Decomposition, DecompositionConfig, GeodesicConfig, adamw, decompose
from harness.decomposition.objective import Objective
from harness.records import VectorKind
from harness.run.help import compose_config
from harness.run.setup import Setup
from harness.subject import Subject

FAST = DecompositionConfig(num_channels=1)
BEST = replace(FAST, geodesic=GeodesicConfig(lookahead=2))
ADAMW = replace(FAST, solver="adamw")
PLACES = ((3, VectorKind.OUT), (1, VectorKind.IN))
TOLERANCE = 1e-3


def main() -> None:
    """Measure and print."""
    sections: dict[str, Callable[[argparse.Namespace], None]] = {
        "step": step, "growth": growth, "memory": memory, "joined": joined, "order": order, "first": first,
        "channels": channels,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--neurons", type=int, default=64, help="neurons per layer, spread evenly over it")
    parser.add_argument("--channel-neurons", type=int, default=256, help="neurons of the section channels")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, the same for all")
    parser.add_argument("--peak-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.sections if name not in sections]:
        parser.error(f"there is no section {unknown[0]}; choose from {', '.join(sections)}")
    torch.set_num_threads(options.threads)
    if options.peak_of:
        d_model, tokens, vectors, mib = map(int, options.peak_of[:4])
        _print_peak(d_model, tokens, vectors, mib, options.peak_of[4])
        return
    print(f"torch {torch.__version__}, {options.threads} thread(s)")
    for name in options.sections or [name for name in sections if name != "channels"]:
        print(f"\n## {name}", flush=True)
        sections[name](options)


def minilm() -> Subject:
    """Return the embedded default subject."""
    return Setup.of(compose_config(["subject=minilm"])).subject


def joined(options: argparse.Namespace) -> None:
    """Compare one call for all vectors with a call for each layer and kind, in alternating turns."""
    for name in ("minilm", "smollm2"):
        subject, groups, run = few_of_many_layers(name, FAST)
        run(groups[0])  # warms up allocator and threads
        ways, ratios = {"apart": groups, "together": [torch.cat(groups)]}, []
        for turn in range(4):
            seconds = {}
            for way in sorted(ways, reverse=turn % 2 == 1):
                seconds[way] = sum(run(part)[0] for part in ways[way])
            ratios.append(seconds["apart"] / seconds["together"])
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"  {subject.name}, {len(groups)} x 4 vectors, 3 channels: together {each} times as fast", flush=True)


def order(options: argparse.Namespace) -> None:
    """Compare the channels of one call with those of a call for each layer and kind, and of the reverse order."""
    for tolerance in (1e-4, 1e-5, 1e-6):
        subject, groups, run = few_of_many_layers(
            "smollm2", replace(FAST, geodesic=GeodesicConfig(tolerance=tolerance))
        )
        seconds, found = run(torch.cat(groups))
        steps = found.steps.double().mean()
        each = seconds / found.steps.numel()
        print(f"  {subject.name}, tolerance {tolerance:g}: {each:.3f} s and {steps:.1f} steps a channel", flush=True)
        others = {
            "apart": torch.cat([run(part)[1].directions for part in groups]),
            "reverse order": run(torch.cat(groups).flip(0))[1].directions.flip(0),
        }
        for name, other in others.items():
            cosine = torch.cosine_similarity(found.directions, other, dim=-1)
            shares = (
                ", ".join(f"{share:.0%}" for share in (cosine > least).double().mean(dim=0)) for least in (0.99, 0.9)
            )
            print(f"    {name}: cosine by rank above .99: {next(shares)}; above .9: {next(shares)}", flush=True)


def few_of_many_layers(
    name: str, config: DecompositionConfig
) -> tuple[Subject, list[Tensor], Callable[[Tensor], tuple[float, Decomposition]]]:
    """Return a subject, four vectors of each kind of three layers, and what decomposes some into three channels."""
    subject = Setup.of(compose_config([f"subject={name}"])).subject
    layers = [round(share * (subject.num_layers - 1)) for share in (0, 0.5, 1)]
    groups = [spread(subject, layer, kind, 4)[0] for layer in layers for kind in subject.kinds]
    projection, weights, config = subject.projection(0), subject.token_weights(0), replace(config, num_channels=3)
    return subject, groups, partial(_decomposed, projection=projection, weights=weights, config=config)


def spread(subject: Subject, layer: int, kind: VectorKind, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``count`` vectors of a layer, its projection and its token weights."""
    indices = list(range(0, subject.d_mlp, max(1, subject.d_mlp // count)))[:count]
    return subject.vectors(layer, indices, kind), subject.projection(layer), subject.token_weights(layer)


def _decomposed(
    vectors: Tensor, projection: Tensor, weights: Tensor, config: DecompositionConfig
) -> tuple[float, Decomposition]:
    return timed(partial(decompose, vectors, projection, token_weights=weights, config=config))


def timed(run: Callable[[], Decomposition]) -> tuple[float, Decomposition]:
    """Return the seconds of a run, and its result."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def line(what: str, target: str, measured: str, met: bool) -> None:
    """Print a target and the measured value."""
    print(f"  {what:58s} target {target:10s} measured {measured:10s} {'met' if met else 'NOT MET'}", flush=True)


def first(options: argparse.Namespace) -> None:
    """Compare the first channel with the lowest loss that adamw reached at any step."""
    subject = minilm()
    for layer, kind in PLACES:
        vectors, projection, weights = spread(subject, layer, kind, options.neurons)

        run = partial(_decomposed, vectors, projection, weights)
        run(FAST)  # warms up allocator and threads
        (_, fast), (_, best) = run(FAST), run(BEST)
        # Repeated before and after adamw, so that a short load of the machine does not decide.
        fast_seconds, best_seconds = [run(FAST)[0] for _ in range(3)], [run(BEST)[0] for _ in range(2)]
        lowest = torch.full((len(vectors),), math.inf)

        def watch(losses: Tensor, lowest: Tensor = lowest) -> None:
            torch.minimum(lowest, losses, out=lowest)

        start = time.perf_counter()
        # The solver alone, without the measurements of a channel, and with the losses of every step.
        _, steps = adamw.solve(
            Objective(projection, ADAMW.kurtosis_weight, ADAMW.fidelity_weight),
            normalize(vectors, dim=-1),
            weights.unsqueeze(0),
            ADAMW.adamw,
            seed=0,
            channel=0,
            watch=watch,
        )
        adamw_seconds = time.perf_counter() - start
        fast_seconds += [run(FAST)[0] for _ in range(4)]
        best_seconds += [run(BEST)[0] for _ in range(3)]
        print(f"MiniLM layer {layer} {kind}, {len(vectors)} neurons, first channel")
        print(f"  adamw {adamw_seconds:8.1f} s  {int(steps[0])} steps       lowest loss ever, mean {lowest.mean():.4f}")
        for name, seconds, found, ratio, share in (
            ("fast", median(fast_seconds), fast, 200, 0.86),
            ("best", median(best_seconds), best, 50, 0.95),
        ):
            loss = found.loss[:, 0]
            good = float((loss <= lowest + TOLERANCE).double().mean())
            print(
                f"  {name}  {seconds:8.2f} s  {found.steps.double().mean():.1f} steps (mean)  "
                f"loss, mean {loss.mean():.4f}"
            )
            times = adamw_seconds / seconds
            line(f"{name}: times less time than adamw", f">= {ratio}", f"{times:.0f}", times >= ratio)
            line(f"{name}: neurons no worse (within 1e-3)", f">= {share:.0%}", f"{good:.1%}", good >= share)
            if name == "best":
                lower = float(loss.mean() - lowest.mean())
                line(f"{name}: mean loss minus adamw's", "< 0", f"{lower:.4f}", lower < 0)


def step(options: argparse.Namespace) -> None:
    """Compare the time per step with its two matrix products alone, measured alternately."""
    vectors, projection, weights = spread(minilm(), 3, VectorKind.OUT, options.neurons)
    directions, by_token = torch.randn_like(vectors), torch.randn(len(vectors), projection.shape[1])

    def run(steps: int) -> float:
        endless = GeodesicConfig(max_steps=steps, patience=10**6, refresh_every=10**6)
        config = replace(FAST, geodesic=endless)
        return timed(lambda: decompose(vectors, projection, token_weights=weights, config=config))[0]

    def products(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            directions @ projection
            by_token @ projection.T
        return (time.perf_counter() - start) / times

    run(5), products(5)
    ratios, steps = [], []
    for _ in range(7):
        alone = products(10)
        one = (run(30) - run(10)) / 20  # start and end of a search cancel
        ratios.append(one / ((alone + products(10)) / 2))
        steps.append(one)
    ratio = sorted(ratios)[3]
    print(
        f"{len(vectors)} neurons, d_model {vectors.shape[1]}, V {projection.shape[1]}: "
        f"{sorted(steps)[3] * 1e3:.1f} ms a step"
    )
    print(f"  ratios of the seven turns: {', '.join(f'{value:.2f}' for value in sorted(ratios))}")
    line("time per step / its two products (median)", "<= 2", f"{ratio:.2f}", ratio <= 2)


def channels(options: argparse.Namespace) -> None:
    """Compare kurtosis, cosine and loss of ten channels."""
    subject = minilm()
    for layer, kind in PLACES:
        vectors, projection, weights = spread(subject, layer, kind, options.channel_neurons)
        print(f"MiniLM layer {layer} {kind}, {len(vectors)} neurons, means over neurons")
        seconds, found = {}, {}
        for name, settings in (("fast", FAST), ("best", BEST), ("adamw", ADAMW)):
            config = replace(settings, num_channels=10)
            seconds[name], found[name] = timed(
                partial(decompose, vectors, projection, token_weights=weights, config=config, memory_budget=8 * 2**30)
            )
            print(f"  {name}: {seconds[name]:.1f} s", flush=True)
        print("  channel  kurtosis fast/best/adamw     cosine fast/best/adamw     loss fast/best/adamw")
        for channel in range(10):
            cells = [
                " / ".join(f"{getattr(found[name], measure)[:, channel].mean():{form}}" for name in found)
                for measure, form in (("kurtosis", "7.1f"), ("cosine", ".3f"), ("loss", ".3f"))
            ]
            print(f"  {channel:7d}  {'   '.join(cells)}", flush=True)
        for name, target in (("fast", 200), ("best", 50)):
            times = seconds["adamw"] / seconds[name]
            line(f"{name}: times less time than adamw", f">= {target}", f"{times:.0f}", times >= target)


def growth(options: argparse.Namespace) -> None:
    """Print the growth of time: the exponent between each size and the previous one."""
    base = {"N": 64, "V": 16_000, "d_model": 256, "C": 2}
    sizes = {"N": (16, 64, 256), "V": (8_000, 16_000, 32_000), "d_model": (128, 256, 512), "C": (1, 2, 4, 8)}
    for name, values in sizes.items():
        previous: tuple[int, float] | None = None
        for value in values:
            shape = base | {name: value}
            projection = clustered_vocabulary(shape["d_model"], shape["V"])
            vectors = mixed_vectors(projection, shape["N"])
            config = replace(FAST, num_channels=shape["C"])
            seconds, found = timed(partial(decompose, vectors, projection, config=config))
            words = ""
            if previous is not None:
                words = f"  time ~ {name}^{math.log(seconds / previous[1]) / math.log(value / previous[0]):.2f}"
            print(
                f"  {name:8s}{value:7d}  {seconds:7.2f} s  {found.steps.double().mean():5.1f} steps{words}", flush=True
            )
            previous = value, seconds
        print(f"           (the others: {', '.join(f'{key} {size}' for key, size in base.items() if key != name)})")


def memory(options: argparse.Namespace) -> None:
    """Compare the peak memory, without the projection, with the budget; each shape in its own process."""
    for d_model, tokens, vectors, mib, solver in (
        (384, 30_522, 256, 256, "fast"),
        (384, 30_522, 256, 128, "best"),
        (384, 30_522, 64, 192, "adamw"),
        (2304, 256_000, 16, 256, "fast"),
        (2304, 256_000, 16, 512, "best"),
    ):
        arguments = [str(value) for value in (d_model, tokens, vectors, mib, solver)]
        command = [sys.executable, __file__, "--threads", str(options.threads), "--peak-of", *arguments]
        peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        what = f"{solver}: d_model {d_model}, V {tokens}, {vectors} vectors"
        line(what, f"<= {mib} MiB", f"{peak:.0f} MiB", peak <= mib)


def _print_peak(d_model: int, tokens: int, vectors: int, mib: int, solver: str) -> None:
    """Print the MiB by which a decomposition raises this process's peak above the memory of its inputs."""
    projection = clustered_vocabulary(d_model, tokens)
    some = mixed_vectors(projection, vectors)
    # The first product allocates buffers of the matrix library, which no budget counts.
    some[:1] @ projection
    held = resident()
    chosen = {"fast": FAST, "best": BEST, "adamw": ADAMW}[solver]
    short = replace(chosen.geodesic, max_steps=4), replace(chosen.adamw, max_steps=4)
    config = replace(chosen, num_channels=2, geodesic=short[0], adamw=short[1])
    decompose(some, projection, config=config, memory_budget=mib * 2**20)
    print(above(held))


if __name__ == "__main__":
    main()
