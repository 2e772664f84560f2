"""The leaderboard of a million verdicts: six methods, two judges, 1,000 bootstrap samples, on all cores.

``python tests/bench/stats.py`` prints the time beside the target, and what it is made of. ``--verdicts`` takes another
number; ``--profile`` says where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time

import numpy as np

from harness.records import Description, Neuron, Usage, VectorKind, VectorSummary, Verdict, Winner
from harness.results.facets import facets_of
from harness.results.leaderboard import build_leaderboard
from harness.stats.config import StatisticsConfig

METHODS = ("rotate", "maxact", "vocab_proj", "token_change", "shuffled", "generic")
STRENGTHS = (1.0, 0.7, 0.3, 0.2, -0.9, -1.3)
JUDGES = ("one", "two")
TARGET_SECONDS = 10.0


def benchmark(verdicts: int, seed: int = 0) -> tuple[list[Verdict], list[Description]]:
    """Return about so many verdicts in both orders, with neuron effects, ties, a taste for length and for the first."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in range(len(METHODS)) for b in range(a + 1, len(METHODS))]
    neurons = [Neuron(place % 12, place) for place in range(round(verdicts / len(JUDGES) / len(pairs) / 2))]
    words = rng.poisson([12, 9, 8, 10, 12, 5], size=(len(neurons), len(METHODS))) + 1
    fit = np.array(STRENGTHS) + rng.normal(scale=0.7, size=(len(neurons), len(METHODS)))
    usage = Usage(1, 800, 20, 0.5)
    records = []
    for place, neuron in enumerate(neurons):
        for judge in JUDGES:
            for a, b in pairs:
                edge = fit[place, a] - fit[place, b] + 0.5 * np.tanh((words[place, a] - words[place, b]) / 5)
                draws = rng.random(2)
                for first, second, sign, draw in ((a, b, 1, draws[0]), (b, a, -1, draws[1])):
                    score = sign * edge + 0.2 + np.log(draw / (1 - draw))
                    winner = Winner.TIE if abs(score) < 0.2 else Winner.FIRST if score > 0 else Winner.SECOND
                    records.append(Verdict(neuron, judge, METHODS[first], METHODS[second], False, winner, usage=usage))
    descriptions = [
        Description(neuron, name, " ".join(["word"] * int(words[place, k])))
        for place, neuron in enumerate(neurons)
        for k, name in enumerate(METHODS)
    ]
    return records, descriptions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=1_000_000)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    verdicts, descriptions = benchmark(options.verdicts)
    neurons = {item.neuron for item in descriptions}
    rng = np.random.default_rng(1)
    vectors = [
        VectorSummary(neuron, VectorKind.OUT, 1.0, float(rng.exponential()), 0.0, (), (), ()) for neuron in neurons
    ]
    load = os.getloadavg()[0]
    profile = cProfile.Profile(time.process_time)
    begin, work = time.perf_counter(), time.process_time()
    if options.profile:
        profile.enable()
    facets = facets_of(neurons, vectors)
    board = build_leaderboard(
        verdicts,
        (),
        descriptions,
        controls={"shuffled", "generic"},
        seed=0,
        config=StatisticsConfig(draws=1000),
        facets=facets,
    )
    profile.disable()
    wall, work = time.perf_counter() - begin, time.process_time() - work
    print(f"{len(verdicts):,} verdicts, {len(neurons):,} neurons, {len(METHODS)} methods, {board.draws:,} samples")
    print(f"leaderboard: {wall:.1f} s (target {TARGET_SECONDS:.0f} s), {work:.1f} s of CPU, load before {load:.1f}")
    for row in board.overall.rows:
        print(f"  {row.describer:13s} {row.win_rate} {row.interval} {row.adjusted_win_rate} {row.strength} {row.rank}")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
