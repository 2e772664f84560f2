"""The leaderboard of a run folder, and whether several runs can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.records import Description, Score, VectorSummary, Verdict, from_json
from harness.results.alignment import alignment_of
from harness.results.facets import facets_of
from harness.results.leaderboard import build_leaderboard
from harness.results.noise_floor import read_noise_floor, with_noise_floor
from harness.results.schema import Leaderboard
from harness.results.variation import Answers, variation_of
from harness.stats.config import StatisticsConfig
from harness.validation import explain

_EVIDENCE = ("evidence", "corpus")
_DESCRIBERS = ("evidence.max_documents",)
_JUDGING = ("kind", "protocol", "prompts", "role", "symmetric")


def leaderboard_of(folder: RunFolder, manifest: Mapping[str, Any] | None = None) -> Leaderboard:
    """Compute the leaderboard of a run from its records and its manifest.

    Args:
        folder: the run folder.
        manifest: its manifest, if it has already been read.

    Raises:
        HarnessError: if this is not a run folder, a file in it is damaged, or its statistics section is invalid.
    """
    manifest = folder.read_manifest() if manifest is None else manifest
    verdicts, scores = folder.verdicts().records(), folder.scores().records()
    descriptions = folder.descriptions().records()
    records: list[Verdict | Score | Description] = [*verdicts, *scores, *descriptions]
    neurons = {record.neuron for record in records}
    vectors: list[VectorSummary] = folder.read_vectors({neuron.unsigned for neuron in neurons}) if neurons else []
    contestants = _part(manifest, "contestants")
    seed, config = int(manifest.get("seed") or 0), statistics_of(manifest)
    controls = {name for name, entry in contestants.items() if entry.get("control")}
    board = build_leaderboard(
        verdicts,
        scores,
        descriptions,
        controls=controls,
        informed={name for name, entry in contestants.items() if entry.get("informed")},
        people={name for name, entry in _part(manifest, "judges").items() if entry.get("is_human")},
        seed=seed,
        config=config,
        facets=facets_of(neurons, vectors),
        planted=folder.explainer_check().records(),
        alignment=alignment_of(folder, seed=seed, config=config),
    )
    first, options = Answers(descriptions, verdicts, scores), _part(manifest, "config")
    board = replace(board, **variation_of(folder, first, options, controls=controls, seed=seed, config=config))
    return board if config.noise_floor is None else with_noise_floor(board, read_noise_floor(config.noise_floor))


def statistics_of(manifest: Mapping[str, Any]) -> StatisticsConfig:
    """Return the statistics section of a run's config.

    Raises:
        HarnessError: if it is invalid.
    """
    try:
        return from_json(StatisticsConfig, dict(_part(_part(manifest, "config"), "statistics")))
    except ValueError as error:
        raise HarnessError(f"manifest.json: {explain(error, 'statistics')}") from error


@dataclass(frozen=True)
class Difference:
    """One reason why runs cannot be compared.

    Attributes:
        what: ``subject``, ``neurons``, ``evidence`` or ``judges``.
        words: the reason, as a sentence.
        values: the differing value of each run.
    """

    what: str
    words: str
    values: tuple[str, ...]


def incomparable(manifests: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return the reasons why the metrics of runs cannot be compared; empty if they can.

    The subject (fingerprint of its weights), the neurons at their signs, the evidence (text, windows, splits) and the
    judges (protocol, prompts, language models and sampling) must be equal. Describers may differ. A value that is
    missing in one manifest counts as different.
    """
    found: list[Difference] = []

    def differ(what: str, words: str, values: Sequence[Any], shown: Sequence[str] | None = None) -> None:
        texts = [json.dumps(value, sort_keys=True, ensure_ascii=False, default=str) for value in values]
        if len(set(texts)) > 1:
            found.append(Difference(what, words, tuple(shown or texts)))

    subjects = [_part(manifest, "subject") for manifest in manifests]
    differ(
        "subject",
        "The runs study different subject models, so their neurons have nothing in common.",
        [subject.get("fingerprint") or subject.get("name") for subject in subjects],
        [f"{subject.get('name')} ({subject.get('fingerprint')})" for subject in subjects],
    )
    neurons = [set(manifest.get("neurons") or ()) for manifest in manifests]
    shared = len(set.intersection(*neurons)) if neurons else 0
    differ(
        "neurons",
        f"The runs describe different neurons: {', '.join(str(len(one)) for one in neurons)}, {shared} in common.",
        [sorted(one) for one in neurons],
        [f"{len(one)} neurons" for one in neurons],
    )
    # What only describers see belongs to the describers.
    own = all(manifest.get("report_corpus") for manifest in manifests)
    text = [_part(manifest, "report_corpus" if own else "corpus") for manifest in manifests]
    differ("evidence", "The runs draw their evidence from different text.", text)
    settings = [_named(_part(manifest, "identity"), _EVIDENCE) for manifest in manifests]
    if own:
        settings = [
            {name: value for name, value in one.items() if name not in _DESCRIBERS and not name.startswith("corpus.")}
            for one in settings
        ]
    names = sorted({name for one in settings for name in one if any(one.get(name) != x.get(name) for x in settings)})
    if names:
        values = [{name: one.get(name) for name in names} for one in settings]
        differ("evidence", f"The runs gather evidence differently: {', '.join(names)}.", values)
    judges = [_part(manifest, "judges") for manifest in manifests]
    listed = [sorted(one) for one in judges]
    differ("judges", "The runs have different judges.", listed, [", ".join(one) or "none" for one in listed])
    for name in sorted(set.intersection(*map(set, judges)) if judges else ()):
        words = f"The judge {name} differs between the runs, in its prompts, its settings or its language model."
        differ("judges", words, [_judge(manifest, name) for manifest in manifests])
    return found


def judging(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what determines the answers of each judge, as JSON by name; equal for equal judges."""
    return {
        name: json.dumps(_judge(manifest, name), sort_keys=True, ensure_ascii=False, default=str)
        for name in _part(manifest, "judges")
    }


def _judge(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what determines a judge's answers: its protocol, its settings, and the language model in its role."""
    entry, identity = _part(_part(manifest, "judges"), name), _part(manifest, "identity")
    role = entry.get("role")
    return {
        **{key: entry.get(key) for key in _JUDGING},
        **_named(identity, [f"judges.{name}", *([f"llm.{role}"] if role else [])]),
        "llm": {role: _part(manifest, "llm").get(role)} if role else {},
    }


def _named(identity: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in identity.items()
        if any(name == part or name.startswith(f"{part}.") for part in parts)
    }


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = manifest.get(name)
    return value if isinstance(value, Mapping) else {}
