"""From run folders to statistics: the leaderboard of one run, and whether several may be read as one benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.records import Description, Score, VectorSummary, Verdict, from_json
from harness.results.facets import facets_of
from harness.results.leaderboard import build_leaderboard
from harness.results.schema import Leaderboard
from harness.stats.config import StatisticsConfig
from harness.validation import explain

_EVIDENCE = ("evidence", "corpus")
_JUDGING = ("kind", "protocol", "prompts", "role", "symmetric")


def leaderboard_of(folder: RunFolder, manifest: Mapping[str, Any] | None = None) -> Leaderboard:
    """Compute the leaderboard of a run from its records and its manifest alone.

    Args:
        folder: the run folder.
        manifest: its manifest, if it has been read already.

    Raises:
        HarnessError: if this is no run folder, a file in it is damaged, or its statistics are wrongly configured.
    """
    told = folder.read_manifest() if manifest is None else manifest
    verdicts, scores = folder.verdicts().records(), folder.scores().records()
    descriptions = folder.descriptions().records()
    records: list[Verdict | Score | Description] = [*verdicts, *scores, *descriptions]
    neurons = {record.neuron for record in records}
    vectors: list[VectorSummary] = folder.read_vectors({neuron.unsigned for neuron in neurons}) if neurons else []
    contestants = _part(told, "contestants")
    return build_leaderboard(
        verdicts,
        scores,
        descriptions,
        controls={name for name, entry in contestants.items() if entry.get("control")},
        seed=int(told.get("seed") or 0),
        config=statistics_of(told),
        facets=facets_of(neurons, vectors),
    )


def statistics_of(manifest: Mapping[str, Any]) -> StatisticsConfig:
    """Return how a run's statistics are computed.

    Raises:
        HarnessError: if the manifest does not say so in a way that can be used.
    """
    try:
        return from_json(StatisticsConfig, dict(_part(_part(manifest, "config"), "statistics")))
    except ValueError as error:
        raise HarnessError(f"manifest.json: {explain(error, 'statistics')}") from error


@dataclass(frozen=True)
class Difference:
    """One reason why runs are not one benchmark.

    Attributes:
        what: ``subject``, ``neurons``, ``evidence`` or ``judges``.
        words: the reason, as a sentence.
        values: what each run has, in the order of the runs.
    """

    what: str
    words: str
    values: tuple[str, ...]


def incomparable(manifests: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return why the figures of runs must not be read side by side; empty if they may.

    Compared are the subject (the fingerprint of its weights), the neurons at their signs, the evidence (text, windows,
    splits), and the judges (protocol, prompts, the language models that they ask and their sampling). Describers may
    differ: to compare them is what the runs are for. What a manifest does not tell counts as different from what
    another one tells. Fewer than two runs have nothing to differ in.
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
    text = [_part(manifest, "corpus") for manifest in manifests]
    differ("evidence", "The runs draw their evidence from different text.", text)
    settings = [_named(_part(manifest, "identity"), _EVIDENCE) for manifest in manifests]
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
    """Return all that makes the answers of each judge, as JSON by its name: equal for judges that are the same."""
    return {
        name: json.dumps(_judge(manifest, name), sort_keys=True, ensure_ascii=False, default=str)
        for name in _part(manifest, "judges")
    }


def _judge(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return all that makes a judge's answers: what it is, its settings, and the language model in its role."""
    entry, identity = _part(_part(manifest, "judges"), name), _part(manifest, "identity")
    roles = [role for role in (entry.get("role"),) if role]
    return {
        **{key: entry.get(key) for key in _JUDGING},
        **_named(identity, (f"judges.{name}", *(f"llm.{role}" for role in roles))),
        "llm": {role: _part(manifest, "llm").get(role) for role in roles},
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
