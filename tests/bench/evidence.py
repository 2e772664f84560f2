"""Compares a pass over a corpus with the bare forward pass: ``python tests/bench/evidence.py``.

Reads the installed documentation with MiniLM for some neurons of each of four layers. The same batches alternate
between the pass (activations read, exemplars and the sums of the alignment updated) and the bare model, cut off after
the same layer. Prints the median time of each, their ratio, and the share of the sums.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers

from harness.evidence import EvidenceConfig, InstalledDocs
from harness.evidence.alignment import TokenSums
from harness.evidence.encoding import Encoder, framed
from harness.evidence.state import Batch, State, batches
from harness.evidence.store import gathered
from harness.evidence.windows import Cutter, Window
from harness.records import Neuron, Sign
from harness.run.help import compose_config
from harness.run.setup import Setup
from harness.subject import ActivationReader, Subject

TARGET = 0.85


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=1000, help="over all layers")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 3, 4])
    parser.add_argument("--turns", type=int, default=24, help="batches of 64 windows; the first ones fill the state")
    parser.add_argument("--warm", type=int, default=8, help="batches left out of the second ratio")
    parser.add_argument("--files", type=int, default=300, help="source files whose documentation is the corpus")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.threads} thread(s)")
    subject = Setup.of(compose_config(["subject=minilm"])).subject
    each = options.neurons // len(options.layers)
    rng = random.Random(0)
    neurons = [
        Neuron(layer, index) for layer in options.layers for index in sorted(rng.sample(range(subject.d_mlp), each))
    ]
    corpus, config = InstalledDocs(max_files=options.files), EvidenceConfig()
    cutter = Cutter(Encoder(subject.tokenizer), config, 0)
    pool = list(cutter.cut(corpus.documents(config.max_documents)))
    every = [batch for batch in batches(pool, 0, 64, 0) if batch.marks.shape == (64, config.window)]
    random.Random(0).shuffle(every)
    every = (every * options.turns)[: options.turns]
    for signs in ([Sign.POSITIVE], list(Sign)):
        compare(subject, [neuron.with_sign(sign) for neuron in neurons for sign in signs], pool, every, options)
    whole(subject, corpus, neurons, config, options.device)


def compare(
    subject: Subject, neurons: list[Neuron], pool: list[Window], every: list[Batch], options: argparse.Namespace
) -> None:
    """Time the pass and the bare forward pass alternately, on the same batches."""
    config, device = EvidenceConfig(), options.device
    encoder = Encoder(subject.tokenizer)
    reader = ActivationReader(subject, sorted({neuron.unsigned for neuron in neurons}), device)
    bare = ActivationReader(subject, [Neuron(max(neuron.layer for neuron in neurons), 0)], device)._model
    for module in bare.modules():
        module._forward_pre_hooks.clear()
    state = State(neurons, config, reader.dtype, device)
    state.book.add(pool, 0)
    sums = TokenSums(subject, sorted({neuron.unsigned for neuron in neurons}), device)

    def passes(batch: Batch) -> tuple[float, float]:
        start = clock(device)
        ids, attention = framed(batch.tokens, encoder.prefix, encoder.suffix, 0)
        read = reader.read(ids, attention)[:, len(encoder.prefix) : len(encoder.prefix) + batch.marks.shape[1]]
        state.update(batch, read)
        middle = clock(device)
        sums.update(batch.ids, batch.marks != 0, read)
        end = clock(device)
        return end - start, end - middle

    @torch.inference_mode()
    def alone(batch: Batch) -> float:
        start = clock(device)
        ids, attention = framed(batch.tokens, encoder.prefix, encoder.suffix, 0)
        bare(input_ids=ids.to(device), attention_mask=attention.to(device))
        return clock(device) - start

    alone(every[0]), reader.read(*framed(every[0].tokens, encoder.prefix, encoder.suffix, 0))
    times = np.array([(alone(batch), *passes(batch)) for batch in every])
    tokens = every[0].marks.size
    signs = "both signs" if any(neuron.negative for neuron in neurons) else "positive sign"
    print(f"{len(neurons)} neurons with signs ({signs}), {len(every)} batches of {tokens} tokens")
    # The first batches update every neuron, later ones only a few: the sum over all batches is that of a short corpus.
    late = times[options.warm :]
    for what, some in (("all batches", times), (f"without the first {options.warm}", late)):
        ratio = median(some[:, 0]) / median(some[:, 1]) if some is late else some[:, 0].sum() / some[:, 1].sum()
        print(
            f"  {what:22s} bare {tokens / some[:, 0].mean():7.0f} tokens/s, pass {tokens / some[:, 1].mean():7.0f}: "
            f"{ratio:.1%}  (target {TARGET:.0%}: {'met' if ratio >= TARGET else 'NOT MET'})",
            flush=True,
        )
    print(f"  sums of the alignment: {times[:, 2].sum() / times[:, 1].sum():.1%} of the pass")
    start = clock(device)
    count = len(list(sums.alignments()))
    print(f"  {count} correlations from the sums: {clock(device) - start:.1f} s, once at the end")


def whole(subject: Subject, corpus: InstalledDocs, neurons: list[Neuron], config: EvidenceConfig, device: str) -> None:
    """Time the whole pass, from reading the documents to writing the run's files."""
    with tempfile.TemporaryDirectory() as folder:
        start = clock(device)
        with gathered(corpus, subject, neurons, config, seed=0, device=device, run_folder=Path(folder)) as found:
            middle = clock(device)
            found.write(Path(folder) / "exemplars.parquet")
            end = clock(device)
            size = (Path(folder) / "exemplars.parquet").stat().st_size / 2**20
            tokens, seconds = found.summary.tokens, middle - start
            print(
                f"whole pass: {found.summary.documents} documents, {tokens} tokens in {seconds:.1f} s "
                f"({tokens / seconds:.0f} tokens/s), copied into a run in {end - middle:.1f} s, {size:.1f} MiB"
            )


def clock(device: str) -> float:
    """Return seconds: CPU time for one thread, which other processes do not affect; else time after synchronising."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() if device != "cpu" or torch.get_num_threads() > 1 else time.process_time()


if __name__ == "__main__":
    main()
