"""Statistics in a run folder: computed from its records, written and read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.folder import RunFolder, replacing, write_json
from harness.records import Corruption, from_json
from harness.results.claims import claim_rows
from harness.results.comparability import statistics_of
from harness.results.diagnostics import diagnostics_groups, diagnostics_json
from harness.results.judge_checks import JudgeCheck, judge_checks
from harness.results.reference_channels import FoundChannel, found_channels, reference_channels
from harness.results.schema import Leaderboard, leaderboard_from_json
from harness.results.tables import claims_markdown, latex_table, markdown_table, write_csv
from harness.stats.threads import one_thread

_CHECKS = TypeAdapter(tuple[JudgeCheck, ...])


def store_leaderboard(folder: RunFolder, leaderboard: Leaderboard) -> None:
    """Write the leaderboard into the run folder as JSON, CSV, Markdown and LaTeX."""
    _store(
        leaderboard, folder.leaderboard, folder.leaderboard_csv, folder.leaderboard_markdown, folder.leaderboard_latex
    )


def store_pooled(leaderboard: Leaderboard, folder: Path) -> None:
    """Write the pooled leaderboard of several runs as ``pooled-leaderboard.*``, in the same formats."""
    _store(leaderboard, *(folder / f"pooled-leaderboard.{ending}" for ending in ("json", "csv", "md", "tex")))


def _store(leaderboard: Leaderboard, as_json: Path, as_csv: Path, markdown: Path, latex: Path) -> None:
    write_json(as_json, leaderboard.to_json())
    write_csv(leaderboard, as_csv)
    for path, text in ((markdown, markdown_table(leaderboard)), (latex, latex_table(leaderboard))):
        with replacing(path) as aside:
            aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def stored_leaderboard(folder: RunFolder) -> Leaderboard | None:
    """Return the stored leaderboard, or None if it is missing or of another version."""
    try:
        return leaderboard_from_json(json.loads(folder.leaderboard.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stored_judge_checks(folder: RunFolder) -> tuple[JudgeCheck, ...] | None:
    """Return the stored judge checks, or None if they are missing or of another version."""
    try:
        return _CHECKS.validate_python(json.loads(folder.judge_checks.read_text("utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def store_decomposition(folder: RunFolder) -> None:
    """Write the diagnostics and the published values next to the run's; equal records give equal bytes."""
    groups = diagnostics_groups(folder)
    write_json(folder.decomposition, diagnostics_json(groups))
    claims = claim_rows(groups, folder.read_manifest())
    if claims:
        write_json(folder.claims, [dataclasses.asdict(claim) for claim in claims])
        with replacing(folder.claims_markdown) as aside:
            aside.write_text(claims_markdown(claims), encoding="utf-8")


@one_thread
def judge_checks_of(folder: RunFolder, manifest: Mapping[str, Any]) -> tuple[JudgeCheck, ...]:
    """Compute the judge checks of a run from its records and manifest.

    Empty if the run has neither contestants of known quality nor retests.
    """
    contestants, judges = _entries(manifest, "contestants"), _entries(manifest, "judges")
    known = {
        name: from_json(Corruption, entry["corruption"])
        for name, entry in contestants.items()
        if entry.get("corruption")
    }
    if all(contestants[name].get("control") for name in known):
        known = {}  # adversaries alone: no description is known to be right
    retests, score_retests = folder.retests().records(), folder.score_retests().records()
    if not known and not retests and not score_retests:
        return ()
    return judge_checks(
        folder.verdicts().records(),
        folder.scores().records(),
        folder.descriptions().records(),
        known,
        seed=int(manifest.get("seed") or 0),
        retests=retests,
        score_retests=score_retests,
        models=_models(contestants) | _models(judges),
        config=statistics_of(manifest),
    )


def store_judge_checks(folder: RunFolder) -> tuple[JudgeCheck, ...]:
    """Compute, write and return the judge checks; without any, the file is removed."""
    checks = judge_checks_of(folder, folder.read_manifest())
    if checks:
        write_json(folder.judge_checks, _CHECKS.dump_python(checks, mode="json"))
    else:
        folder.judge_checks.unlink(missing_ok=True)
    return checks


def _models(entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the models of each contestant or judge, and of a panel's members as ``panel/member``."""
    found = {name: entry.get("models", []) for name, entry in entries.items()}
    for name, entry in entries.items():
        for member, inner in (entry.get("members") or {}).items():
            found[f"{name}/{member}"] = inner.get("models", [])
    return found


def _entries(manifest: Mapping[str, Any], part: str) -> dict[str, Mapping[str, Any]]:
    found = manifest.get(part)
    return {name: entry for name, entry in found.items() if isinstance(entry, Mapping)} if found else {}


def read_reference_channels(folder: RunFolder, manifest: Mapping[str, Any]) -> tuple[FoundChannel, ...]:
    """Return the reference channels of the run's config with the channels found for them; empty without any."""
    expected = reference_channels((manifest.get("config") or {}).get("reference_channels") or ())
    if not expected:
        return ()
    neurons = {one.neuron for one in expected}
    return found_channels(expected, folder.read_channels(neurons), folder.read_vectors(neurons))
