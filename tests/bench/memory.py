"""Peak memory of gathering the evidence of many neurons, and of the report of a run.

``python tests/bench/memory.py evidence`` reads the installed documentation with a subject and compares the growth of
this process, model included, with the estimate that bounds it (``evidence.memory``). ``python tests/bench/memory.py
report`` reads a made-up run and writes its report. All sizes are in addition to what the process held before (Linux
only).
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from peak import above, resident
from report import realistic_run

from harness.evidence import EvidenceConfig, InstalledDocs, gathered
from harness.evidence.state import bytes_of_neuron, groups
from harness.folder import RunFolder
from harness.records import Neuron
from harness.report.build import write_report
from harness.results.run_data import load_run
from harness.run.help import compose_config
from harness.run.setup import Setup
from harness.subject import ActivationReader


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["evidence", "report"])
    parser.add_argument("--neurons", type=int, help="10,000 for evidence, 1,000 for report")
    parser.add_argument("--subject", default="smollm2")
    parser.add_argument("--layers", type=int, default=7, help="layers, from the lowest, over which neurons are spread")
    parser.add_argument("--memory", type=float, default=EvidenceConfig.memory, help="evidence.memory")
    parser.add_argument("--report-random", type=int, default=EvidenceConfig.report_random)
    parser.add_argument("--files", type=int, default=60, help="source files whose documentation is the corpus")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (evidence if options.section == "evidence" else report)(options, Path(folder))


def evidence(options: argparse.Namespace, folder: Path) -> None:
    """Gather evidence, and copy it into a run."""
    subject = Setup.of(compose_config([f"subject={options.subject}"])).subject
    everywhere = [Neuron(layer, index) for layer in range(options.layers) for index in range(subject.d_mlp)]
    neurons = sorted(random.Random(0).sample(everywhere, options.neurons or 10_000))
    config = replace(EvidenceConfig(), memory=options.memory, report_random=options.report_random)
    ActivationReader(subject, neurons[:1], "cpu").close()
    held, start = resident(), time.monotonic()
    with gathered(
        InstalledDocs(max_files=options.files), subject, neurons, config, seed=0, device="cpu", run_folder=folder
    ) as found:
        captured = time.monotonic() - start
        print(f"{found.summary.tokens:,} tokens in {captured:.0f} s, {found.summary.report_windows:,} report windows")
        each, passes = bytes_of_neuron(config, subject.d_model, 1), groups(neurons, config, subject.d_model)
        print(f"estimate: {each / 2**10:.0f} KiB a neuron, {each * len(passes[0]) / 2**20:,.0f} MiB at once")
        print(f"{len(neurons):,} neurons in {len(passes)} pass(es): {above(held):,.0f} MiB at the peak", flush=True)
        held = resident()
        found.write(folder / "exemplars.parquet")
        size = (folder / "exemplars.parquet").stat().st_size / 2**20
        print(f"copied into a run ({size:,.0f} MiB): {above(held):,.0f} MiB at the peak")


def report(options: argparse.Namespace, folder: Path) -> None:
    """Read a run that another process made, and write its report."""
    count = options.neurons or 1000
    maker = multiprocessing.get_context("spawn").Process(target=realistic_run, args=(folder, count))
    maker.start()
    maker.join()
    held = resident()
    run = load_run(RunFolder(folder))
    print(f"{count:,} neurons, read and computed: {above(held):,.0f} MiB at the peak", flush=True)
    write_report([run], RunFolder(folder).report)
    print(f"report written: {above(held):,.0f} MiB at the peak")


if __name__ == "__main__":
    main()
