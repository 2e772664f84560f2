"""Size of the report of a thousand neurons, and the time that a browser needs to open it.

``python tests/bench/report.py`` prints the measurements and targets. ``--neurons`` sets the number of neurons, and
``--keep`` names a folder in which the run and its report stay. Without Chromium only the size is measured.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import tempfile
import time
from pathlib import Path

from harness.folder import RunFolder, write_json, write_table
from harness.records import (
    Channel,
    Description,
    Exemplar,
    Neuron,
    RoleUsage,
    Score,
    ScoredToken,
    Source,
    Split,
    Usage,
    VectorKind,
    VectorSummary,
    Verdict,
    Winner,
)
from harness.report.build import write_report
from harness.results.run_data import load_run

TARGET_MEGABYTES, TARGET_SECONDS = 20.0, 3.0
DESCRIBERS = ("rotate", "maxact", "vocab_proj", "shuffled", "generic")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def realistic_run(path: Path, neurons: int, seed: int = 0) -> RunFolder:
    """Write a run with as much data per neuron as a real run with an LLM.

    Each neuron has two vectors with ten channels, fifteen windows of 64 tokens per split, five descriptions, both
    orders of ten pairs by a judge that gives reasons, one order by a judge that does not, and two scores. Words are
    drawn from 30,000 with the frequencies of natural text but no grammar, so they compress worse than a real run.
    """
    folder, rng = RunFolder(path), random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [1 / (place + 3) for place in range(26)]
    vocabulary = ["".join(rng.choices(letters, weights, k=rng.randint(2, 9))) for _ in range(30_000)]
    frequency = list(itertools.accumulate(1 / (place + 10) for place in range(len(vocabulary))))

    def words(count: int) -> list[str]:
        return rng.choices(vocabulary, cum_weights=frequency, k=count)

    def tokens(count: int, sign: int = 1) -> tuple[ScoredToken, ...]:
        top = rng.uniform(8, 15)
        return tuple(
            ScoredToken(word, sign * round(top - 0.3 * i, 3)) for i, word in enumerate(rng.choices(vocabulary, k=count))
        )

    ids = [Neuron(place * 6 // neurons, place) for place in range(neurons)]
    write_json(
        folder.manifest,
        {
            "name": "a thousand neurons",
            "subject": {"name": "made-up", "layers": 6, "d_mlp": 1536},
            "contestants": {name: {"control": name in DESCRIBERS[3:], "mode": "llm"} for name in DESCRIBERS},
            "judges": {"pairwise": {"kind": "comparator"}, "embedding": {"kind": "comparator"}},
            "llm": {"explainer": {"model": "m"}, "judge": {"model": "m"}},
        },
    )
    vectors, channels, exemplars = [], [], []
    descriptions, verdicts, scores = folder.descriptions(), folder.verdicts(), folder.scores()
    usage = Usage(1, 900, 40, 1.0, {"judge": RoleUsage(1, 900, 40, 1.0)})
    for neuron in ids:
        for kind in (VectorKind.IN, VectorKind.OUT):
            curve = tuple(1 - 0.8 ** (rank + 1) for rank in range(10))
            vectors.append(VectorSummary(neuron, kind, 1.3, rng.random(), 0.2, tokens(20), tokens(20, -1), curve))
            for rank in range(10):
                bell = tuple(int(30_000 * 2.7 ** (-((b - 20) ** 2) / 18) * rng.uniform(0.9, 1.1)) for b in range(40))
                figures = (rng.uniform(3, 90), rng.uniform(0.1, 3), rng.uniform(0.6, 0.8), -rng.random())
                channels.append(
                    Channel(neuron, kind, rank, *figures, rng.randint(20, 300), tokens(20), tokens(20, -1), bell)
                )
        for split in Split:
            for window in range(15):
                source = Source.TOP if window < 10 else Source.RANDOM
                text = tuple(f" {word}" for word in words(64))
                peaks = tuple(max(0.0, round(rng.gauss(-0.5, 1), 5)) for _ in text)
                exemplars.append(Exemplar(neuron, split, source, f"{neuron}{window}", window, text, peaks))
        for place, name in enumerate(DESCRIBERS):
            parts = tuple(" ".join(words(8)) for _ in range(20)) if name == "rotate" else ()
            made = Description(neuron, name, " ".join(words(30)), detail="from 10 channels", steps=parts, usage=usage)
            descriptions.append(made)
            for scorer in ("simulation", "detection"):
                further = {"top": rng.random(), "random": rng.random()}
                scores.append(Score(neuron, scorer, name, 0.5 - 0.1 * place + 0.1 * rng.random(), metrics=further))
        for first, second in itertools.permutations(DESCRIBERS, 2):
            better = DESCRIBERS.index(first) < DESCRIBERS.index(second)
            winner = Winner.FIRST if better == (rng.random() < 0.8) else Winner.SECOND
            reason = " ".join(words(25))
            verdicts.append(Verdict(neuron, "pairwise", first, second, False, winner, reason=reason, usage=usage))
            if better:
                told = f"AUC {rng.random():.3f} against {rng.random():.3f} on 20 activating and 20 silent windows"
                verdicts.append(Verdict(neuron, "embedding", first, second, True, winner, reason=told))
    for journal in (descriptions, verdicts, scores):
        journal.close()
    write_table(folder.channels / "L.channels.parquet", channels)
    write_table(folder.channels / "L.vectors.parquet", vectors)
    write_table(folder.exemplars, exemplars)
    return folder


def time_to_open(report: Path, browser_path: str) -> dict[str, float]:
    """Return the seconds until a browser shows the report, one of its neurons by link, and the hits of a search."""
    from playwright.sync_api import sync_playwright

    painted = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        browser.new_page().close()
        found = {}
        start, tab = time.perf_counter(), browser.new_page()
        tab.goto(report.as_uri())
        tab.evaluate(painted)
        found["open"] = time.perf_counter() - start
        name = tab.locator("details.card").last.get_attribute("id")
        tab.close()
        start, tab = time.perf_counter(), browser.new_page()
        tab.goto(f"{report.as_uri()}#{name}")
        tab.locator(f"#{name} .channels").first.wait_for()
        found["open a neuron by link"] = time.perf_counter() - start
        start = time.perf_counter()
        tab.locator(".filter").fill(f"link to {name}".lower())
        tab.locator(".count", has_text="1 of").wait_for()
        found["first search of all text"] = time.perf_counter() - start
        browser.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="folder for the run and its report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = realistic_run(options.keep or Path(temporary), options.neurons)
        start = time.perf_counter()
        run = load_run(folder)
        loaded = time.perf_counter()
        write_report([run], folder.report)
        written = time.perf_counter()
        megabytes = folder.report.stat().st_size / 1e6
        print(f"{options.neurons:,} neurons: {megabytes:.1f} MB (target {TARGET_MEGABYTES:g} MB)")
        print(f"read and computed in {loaded - start:.1f} s, written in {written - loaded:.1f} s")
        browser_path = next((path for path in map(shutil.which, BROWSERS) if path), None)
        if browser_path is None:
            print("time to open: no Chromium on this machine (apt-get install chromium)")
            return
        seconds = time_to_open(folder.report, browser_path)
        print(f"open: {seconds.pop('open'):.2f} s (target {TARGET_SECONDS:g} s)")
        for what, took in seconds.items():
            print(f"{what}: {took:.2f} s")


if __name__ == "__main__":
    main()
