"""Measures the alignment of neurons with tokens in every layer: ``python tests/bench/alignment.py``.

Prints Markdown tables for each subject: for a sample of neurons of every layer, mean |r| with the current and the next
token, and, for fewer neurons of some layers, of the direct logit contribution with the measured effect; each with its
control, the same with another neuron's vector. :mod:`harness.evidence.alignment` and :mod:`harness.results.alignment`
define the metrics.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers

from harness.evidence import Corpus, EvidenceConfig, draw_prompts, gathered, special_affixes
from harness.folder import read_table
from harness.records import Against, Alignment, Effect, Neuron, Split
from harness.results.alignment import STRONG, alignment_rows
from harness.results.formatting import number, percent
from harness.results.schema import AlignmentRow
from harness.run.help import compose_config
from harness.run.interventions.config import EffectsConfig, strengths
from harness.run.interventions.measure import Clamping, effects_of
from harness.run.setup import Setup
from harness.seeds import derive_rng
from harness.stats.config import StatisticsConfig
from harness.subject import CausalModel, Subject

#: Rows of a forward pass that returns logits: bounds their memory.
ROWS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", default=["smollm2", "gemma3_270m"])
    parser.add_argument("--corpus", default="news")
    parser.add_argument("--neurons", type=int, default=48, help="of each layer, for the current and the next token")
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--effect-neurons", type=int, default=8, help="of each layer, for effects; 0 for no effects")
    parser.add_argument("--effect-every", type=int, default=4, help="measure effects in every n-th layer and the last")
    parser.add_argument(
        "--prompts", type=int, default=8, help="pieces of text of 32 tokens over which effects are averaged"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.threads} thread(s)")
    for name in options.subjects:
        setup = Setup.of(compose_config([f"subject={name}", f"corpus={options.corpus}"]))
        assert setup.corpus is not None
        measure(setup.subject, setup.corpus, options)


def sample(subject: Subject, layers: Sequence[int], count: int) -> list[Neuron]:
    """Return ``count`` random neurons of each layer, ordered."""
    found = []
    for layer in layers:
        neurons = subject.neurons(layer)
        drawn = derive_rng(0, "alignment", layer).choice(len(neurons), count, replace=False)
        found += [neurons[place] for place in sorted(drawn.tolist())]
    return found


def measure(subject: Subject, corpus: Corpus, options: argparse.Namespace) -> None:
    """Print the table of a subject."""
    start, layers = time.monotonic(), range(subject.num_layers)
    config = EvidenceConfig(max_documents=options.documents, top=1, random=1, quantiles=0)
    with tempfile.TemporaryDirectory() as folder:
        neurons, file = sample(subject, layers, options.neurons), Path(folder) / "alignment.parquet"
        with gathered(corpus, subject, neurons, config, seed=0, device="cpu", run_folder=Path(folder)) as found:
            found.write_alignment(file)
            summary = found.summary
        alignments = read_table(file, Alignment)
    middle = time.monotonic()
    chosen = [layer for layer in layers if layer % options.effect_every == 0 or layer == layers[-1]]
    effects: list[Effect] = []
    if options.effect_neurons:
        effects += effects_in(subject, corpus, sample(subject, chosen, options.effect_neurons), options.prompts)
    rows = alignment_rows(alignments, effects, seed=0, config=StatisticsConfig())
    print(
        f"\n{subject.name}, {corpus.name}: {summary.documents} documents, {summary.tokens:,} tokens, {options.neurons} "
        f"neurons of each layer in {middle - start:.0f} s; effects of {options.effect_neurons} neurons of layers "
        f"{', '.join(map(str, chosen))} on {options.prompts} x 32 tokens in {time.monotonic() - middle:.0f} s\n"
    )
    print("\n".join(table(rows)), flush=True)


def effects_in(subject: Subject, corpus: Corpus, neurons: Sequence[Neuron], prompts: int) -> Iterator[Effect]:
    """Yield the effects of clamping neurons to the default values."""
    config, evidence = EffectsConfig(prompts=prompts), EvidenceConfig()
    pieces = draw_prompts(corpus, subject, evidence, Split.EXPLAIN, count=prompts, tokens=config.tokens, seed=0)
    model = CausalModel(subject, "cpu")
    clamping = Clamping(model, pieces, special_affixes(subject.tokenizer)[0], ROWS)
    for neuron in neurons:
        yield from effects_of(clamping, subject, Split.EXPLAIN, strengths([neuron], config, {}), 1)
    model.close()


def table(rows: Sequence[AlignmentRow]) -> Iterator[str]:
    """Yield the lines of a table with one line for each layer and kind."""
    found = {(row.layer, row.kind, row.against): row for row in rows}
    heads = " | ".join(f"{token}: mean r | control | above {STRONG:g}" for token in ("current", "next"))
    yield f"| layer | kind | {heads} | aligned |"
    yield "|---" * 9 + "|"
    for layer, kind in dict.fromkeys((row.layer, row.kind) for row in rows):
        both = [found.get((layer, kind, against)) for against in (Against.CURRENT, Against.NEXT)]
        if None in both:
            continue
        aligned = [row.against for row in both if row is not None and row.aligned]
        yield f"| {layer} | {kind} | {' | '.join(map(cells, both))} | {', '.join(aligned)} |"
    yield ""
    yield f"| layer | out, effect: mean r | control | above {STRONG:g} | aligned |"
    yield "|---" * 5 + "|"
    for row in rows:
        if row.against is Against.EFFECT:
            yield f"| {row.layer} | {cells(row)} | {'yes' if row.aligned else ''} |"


def cells(row: AlignmentRow | None) -> str:
    """Return mean |r| with its interval, its control, and the share of strong neurons."""
    assert row is not None
    low, high = row.interval or (None, None)
    span = f"{number(row.mean_abs, 3)} ({number(low, 3)} to {number(high, 3)})"
    return f"{span} | {number(row.control, 3)} | {percent(row.share, 0)} %"


if __name__ == "__main__":
    main()
