"""Folders of finished runs, made from random records."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from harness.folder import RunFolder, write_json, write_table
from harness.records import (
    AblatedChannels,
    Against,
    Alignment,
    Channel,
    Description,
    Exemplar,
    Neuron,
    RandomVector,
    Restart,
    RoleUsage,
    Score,
    ScoredToken,
    Source,
    Split,
    Status,
    Usage,
    VectorKind,
    VectorSummary,
    Verdict,
    Winner,
)

ATTACK = "<script>alert('x')</script><img src=https://evil.example/x.png onerror=alert(1)>"


HOSTILE = [
    ATTACK,
    "\"' onmouseover='alert(2)",
    "שלום עולם \u202e reversed \u2066 isolated",
    "nul \x00 bell \x07 escape \x1b[31m del \x7f",
    "{{ 7 * 7 }} {% raw %} $\\frac{1}{2}$",
    "lone \ud800 surrogate",
    "</style></details><!-- ]]>",
]


WORDS = ("until", "harbour", "opens", "compare", "version", "size", "edition", "while", "boats", "return", "late")


DESCRIBERS = {"rotate": "llm", "maxact": "llm", "vocab_proj": "extractive", "shuffled": "llm", "empty": "extractive"}


CONTROLS = ("shuffled", "empty")


def make_run(
    path: Path,
    *,
    name: str = "synthetic",
    neurons: int = 4,
    channels: int = 10,
    config: dict[str, Any] | None = None,
    llm: bool = True,
    hostile: bool = True,
    quality: tuple[str, ...] = ("rotate", "maxact", "vocab_proj", "shuffled", "empty"),
) -> RunFolder:
    """Write a run folder with its own writers; ``quality`` ranks the describers by how often they win."""
    rng = random.Random(name)
    folder = RunFolder(path)
    ids = [Neuron(3 + 2 * (place % 2), 17 * place + 5) for place in range(neurons)]
    odd = HOSTILE if hostile else ["word"]
    write_json(
        folder.manifest,
        {
            "name": name + (f" {ATTACK}" if hostile else ""),
            "seed": 7,
            "created": "2026-04-07T09:30:00Z",
            "subject": {
                "name": "all-MiniLM-L6-v2",
                "model_type": "bert",
                "layers": 6,
                "d_model": 384,
                "d_mlp": 1536,
                "vocabulary": 30522,
                "fingerprint": "53aa5117",
            },
            "tokens": {
                "W_U": [
                    {"name": "under-trained", "weight": 0.0, "count": 1234, "examples": ["\x11", "ermutation", ATTACK]}
                ]
            },
            "contestants": {
                key: {"control": key in CONTROLS, "mode": form if llm else "extractive"}
                for key, form in DESCRIBERS.items()
            },
            "judges": {
                "pairwise": {"kind": "comparator", "role": "judge", "symmetric": False, "protocol": "Both orders."},
                "embedding": {"kind": "comparator", "role": None, "symmetric": True, "protocol": "AUC of similarity."},
                "simulation": {"kind": "scorer", "role": "simulator", "symmetric": True, "protocol": "Pearson r."},
            },
            "llm": {"judge": {"model": "qwen3-8b"} if llm else None, "simulator": None},
            "neurons": [str(neuron) for neuron in ids],
            "corpus": {"name": "installed-docs", "documents": 4000, "windows": 21000, "tokens": 1340000},
            "config": config or {"decomposition": {"lambda_k": 0.3, "channels": channels}, "seed": 7},
            "versions": {"neuron-harness": "0.1.0", "torch": "2.13.0"},
        },
    )
    _write_tables(folder, ids, channels, rng, odd)
    _write_answers(folder, ids, rng, odd, quality)
    return folder


def _tokens(rng: random.Random, count: int) -> tuple[ScoredToken, ...]:
    return tuple(ScoredToken(rng.choice(WORDS), round(12 - 0.7 * place, 2)) for place in range(count))


def _write_tables(folder: RunFolder, ids: list[Neuron], channels: int, rng: random.Random, odd: list[str]) -> None:
    found, vectors, exemplars = [], [], []
    for neuron in ids:
        for kind in (VectorKind.IN, VectorKind.OUT):
            base = rng.uniform(-0.2, 3)
            curve = tuple(1 - 0.8 ** (rank + 1) for rank in range(channels))
            vectors.append(VectorSummary(neuron, kind, 1.3, base, 0.2, _tokens(rng, 20), _tokens(rng, 20), curve))
            for rank in range(channels):
                tokens = _tokens(rng, 20)
                if rank == 0:
                    tokens = (ScoredToken(rng.choice(odd), 14.2), ScoredToken("x" * 100_000, 13.0), *tokens)
                bell = tuple(int(20_000 * 2.7 ** (-((bin_ - 20) ** 2) / 18)) + (bin_ > 36) for bin_ in range(40))
                kurtosis = 90 / (rank + 1) * rng.uniform(0.5, 1.5)
                found.append(Channel(neuron, kind, rank, kurtosis, 3.0, 0.6, -1.0, 12, tokens, _tokens(rng, 5), bell))
        for split in Split:
            for source, count in ((Source.TOP, 8), (Source.RANDOM, 4)):
                for window in range(count):
                    tokens_ = [f" {rng.choice(WORDS)}" for _ in range(64)]
                    peak = rng.randrange(64)
                    tokens_[peak] = rng.choice([*odd, " until", "\n", "\t"])
                    activations = [max(0.0, rng.gauss(0.1, 0.3)) for _ in range(64)]
                    if source is Source.TOP:
                        activations[peak] = rng.uniform(2, 5)
                        activations[(peak + 1) % 64] = rng.uniform(0.5, 3)
                    exemplars.append(
                        Exemplar(neuron, split, source, f"d{window}", window, tuple(tokens_), tuple(activations))
                    )
    # Parquet holds UTF-8 and no lone surrogates: those come with the journals alone.
    clean = lambda text: text.encode("utf-8", "replace").decode()  # noqa: E731
    exemplars = [dataclasses.replace(item, tokens=tuple(map(clean, item.tokens))) for item in exemplars]
    found = [
        dataclasses.replace(item, positive=tuple(ScoredToken(clean(t.token), t.z) for t in item.positive))
        for item in found
    ]
    restarts = [Restart(neuron, VectorKind.IN, 1, (0.98,) * channels, (0.9,) * channels, 0.4) for neuron in ids]
    write_table(folder.diagnostics / "L03-in.restarts.parquet", restarts)
    drawn = [RandomVector(3, VectorKind.IN, place, 0.1, (20.0 + place,), (0.7,), (-0.5,), (0.5,)) for place in range(4)]
    write_table(folder.diagnostics / "L03-in.random.parquet", drawn)
    ablated = AblatedChannels(ids[0], VectorKind.IN, (0.9, None), (0.5, 0.7), (0.36, 0.64), 0.8, 0.7)
    write_table(folder.diagnostics / "L03-in.ablations.parquet", [ablated])
    write_table(folder.channels / "L3.channels.parquet", found)
    write_table(folder.channels / "L3.vectors.parquet", vectors)
    write_table(folder.exemplars, exemplars)
    strength, drawn_r = {Against.CURRENT: 0.5, Against.NEXT: 0.02}, random.Random(5)
    write_table(
        folder.alignment,
        [
            Alignment(neuron, VectorKind.IN, against, r + drawn_r.gauss(0, 0.02), drawn_r.gauss(0, 0.02), 9000)
            for neuron in ids
            for against, r in strength.items()
        ],
    )


def _write_answers(
    folder: RunFolder, ids: list[Neuron], rng: random.Random, odd: list[str], quality: tuple[str, ...]
) -> None:
    descriptions, verdicts, scores = folder.descriptions(), folder.verdicts(), folder.scores()
    for place, neuron in enumerate(ids):
        for name in DESCRIBERS:
            text = "" if name == "empty" else f"fires on {rng.choice(WORDS)}, as in {name} of {neuron}: "
            text += odd[(place + len(name)) % len(odd)] if name not in CONTROLS else ""
            role = RoleUsage(3, 900, 60, 1.5, 0.02, 1, 300, 20, 0.015)
            usage = Usage(3, 900, 60, 1.5, {"explainer": role})
            parts = tuple(f"channel {number}: {rng.choice(odd)}" for number in range(3)) if name == "rotate" else ()
            record = Description(neuron, name, text, detail="from 10 channels", steps=parts, usage=usage)
            if name == "vocab_proj" and place == 1:
                record = Description(neuron, name, "", Status.TRUNCATED, "hit the limit of 64 tokens", usage=usage)
            descriptions.append(record)
            value = 0.6 - 0.12 * quality.index(name) + rng.gauss(0, 0.1)
            failed = name == "maxact" and place == 0
            scores.append(
                Score(neuron, "simulation", name, None, Status.UNPARSED, f"no digits {ATTACK}")
                if failed
                else Score(
                    neuron,
                    "simulation",
                    name,
                    round(value, 4),
                    metrics={"top": place / 4, "random": -1.0},
                    usage=Usage(1, 400, 0, 0.2),
                )
            )
        names = sorted(DESCRIBERS)
        for first in names:
            for second in names:
                if first == second:
                    continue
                better = quality.index(first) < quality.index(second)
                winner = Winner.FIRST if better == (rng.random() < 0.8) else Winner.SECOND
                if rng.random() < 0.1:
                    winner = Winner.TIE
                reason = f"{first} before {second} on {neuron}, because {rng.choice(odd)}"
                if rng.random() < 0.05:
                    verdicts.append(
                        Verdict(neuron, "pairwise", first, second, False, None, Status.REFUSED, reason, Usage(1, 700))
                    )
                else:
                    usage = Usage(1, 700, 40, 0.8, {"judge": RoleUsage(1, 700, 40, 0.8)})
                    verdicts.append(
                        Verdict(neuron, "pairwise", first, second, False, winner, reason=reason, usage=usage)
                    )
                if first < second:
                    verdicts.append(Verdict(neuron, "embedding", first, second, True, winner, reason=f"sym {reason}"))
    for journal in (descriptions, verdicts, scores):
        journal.close()


def decomposed_only(path: Path, neurons: int) -> RunFolder:
    """A run that took whole layers apart and asked nobody about them."""
    folder, rng = RunFolder(path), random.Random(3)
    write_json(folder.manifest, {"name": "layers", "subject": {"name": "a-model"}, "llm": {}, "contestants": {}})
    tokens = _tokens(rng, 3)
    for layer in (0, 1):
        ids = [Neuron(layer, index) for index in range(neurons)]
        vectors = [VectorSummary(item, VectorKind.OUT, 1.0, 0.5, 0.1, tokens, tokens, (0.4, 0.6)) for item in ids]
        channels = [
            Channel(item, VectorKind.OUT, rank, rng.uniform(5, 50), 1.0, 0.7, rng.gauss(-0.4, 0.1), 9, tokens, tokens)
            for item in ids
            for rank in range(2)
        ]
        write_table(folder.channels / f"L{layer}.channels.parquet", channels)
        write_table(folder.channels / f"L{layer}.vectors.parquet", vectors)
    return folder
