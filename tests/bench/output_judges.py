"""How often an output-side judge without an LLM prefers a neuron's own description to another neuron's.

``python tests/bench/output_judges.py SUBJECT CORPUS`` with a causal model folder and a .zip file that holds a CSV of
documents. The effects of clamping are measured twice, on different documents: descriptions are made from the first
measurement or from the weights, and judged on the second one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from token_judges import ACTIVE, MINILM, matched_effect, print_table, read

from describers.answers import OUTPUT_ROLES, by_strength, extract
from harness.embedding import SentenceEncoder
from harness.methods import JudgeCase
from harness.records import Effect, Neuron, ScoredToken, SignedTokens, Split, TextPrompt, VectorKind
from harness.run.interventions.measure import Clamping, effects_of
from harness.seeds import derive_rng
from harness.subject import CausalModel, Subject
from judges.embedding import EmbeddingOutput
from judges.prediction import TokenPredictor
from judges.token_match import TokenMatch

TOKENS, LENGTH, VALUE = 30, 32, 10.0


def pieces(subject: Subject, texts: Sequence[str], count: int) -> list[TextPrompt]:
    """Return the second 32 tokens of the first ``count`` documents that have as many."""
    every = (subject.tokenizer(text)["input_ids"] for text in texts)
    long = (ids[LENGTH : 2 * LENGTH] for ids in every if len(ids) >= 2 * LENGTH)
    return [TextPrompt(Split.REPORT, "", tuple(ids), "") for ids, _ in zip(long, range(count), strict=False)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject")
    parser.add_argument("corpus")
    parser.add_argument("--layer", type=int, default=29)
    parser.add_argument("--neurons", type=int, default=60)
    parser.add_argument("--pieces", type=int, default=16)
    parser.add_argument("--sampled", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--others", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject("subject", (options.subject,))
    demo = derive_rng(0, "neurons", options.layer).choice(subject.d_mlp, 24, replace=False).tolist()
    indices = [i for i in derive_rng(99, "bench", options.layer).permutation(subject.d_mlp).tolist() if i not in demo]
    neurons = [Neuron(options.layer, index) for index in indices[: options.neurons]]
    documents = list(read(options.corpus, ["text"]))
    random.Random(7).shuffle(documents)
    model, sample = CausalModel(subject, "cpu"), subject.random_tokens(max(options.sampled), 0)
    effects: dict[Split, list[Effect]] = {}
    for split, texts in ((Split.EXPLAIN, documents[:100]), (Split.REPORT, documents[-100:])):
        clamping = Clamping(model, pieces(subject, texts, options.pieces), [], 32)
        values = {neuron: {VALUE: VALUE} for neuron in neurons}
        effects[split] = list(effects_of(clamping, subject, split, values, 50, sample))
    shown, judged = effects[Split.EXPLAIN], effects[Split.REPORT]
    same = [
        np.corrcoef([item.z for item in one.sampled], [item.z for item in two.sampled])[0, 1]
        for one, two in zip(shown, judged, strict=True)
    ]
    print(f"correlation of the effects on different documents: {np.mean(same):.4f}")
    cases = [JudgeCase(effect.neuron, (), subject, None, 0, effects=(effect,)) for effect in judged]

    def listed(ends: tuple[Sequence[ScoredToken], Sequence[ScoredToken]]) -> SignedTokens:
        high, low = ends
        return extract(by_strength(high, low, OUTPUT_ROLES), TOKENS)

    descriptions = {
        "token_change": [listed((effect.promoted[:25], effect.suppressed[:25])) for effect in shown],
        "vocab_proj": [listed(subject.vocabulary_tokens(n, VectorKind.OUT, 50, final_norm=True)) for n in neurons],
        "raw `out`": [listed(subject.vocabulary_tokens(n, VectorKind.OUT, 50)) for n in neurons],
    }
    encoder = SentenceEncoder(MINILM)
    match, equal = (TokenMatch(TokenPredictor(one), ACTIVE) for one in (encoder, None))
    judges: dict[str, Callable[[JudgeCase, str], float]] = {}
    for count in options.sampled:
        judges[f"token_output, {count:,} tokens"] = matched_effect(match, count)
        judges[f"the same, AUPRC, {count:,} tokens"] = matched_effect(match, count, "auprc")
        judges[f"equal tokens only, {count:,} tokens"] = matched_effect(equal, count)
    separation = EmbeddingOutput(encoder, effects=True).separation
    judges["embedding_output, measured effects"] = lambda case, text: separation(case, text)[0][0]
    print_table(judges, cases, descriptions, options.others)


if __name__ == "__main__":
    main()
