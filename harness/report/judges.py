"""What the judges of a run are worth, where it is known which description is better: as JSON, and in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import RunFolder, write_json
from harness.records import Corruption, from_json
from harness.results.comparability import statistics_of
from harness.results.formatting import percent, visible
from harness.results.judge_checks import JudgeCheck, judge_checks

_CHECKS = TypeAdapter(tuple[JudgeCheck, ...])


def judge_checks_of(folder: RunFolder, manifest: Mapping[str, Any]) -> tuple[JudgeCheck, ...]:
    """Compute, from a run's records and manifest alone, what its judges are worth.

    A run without contestants of known quality, whose judges were asked nothing twice either, has nothing to say.
    """
    contestants, judges = _entries(manifest, "contestants"), _entries(manifest, "judges")
    known = {
        name: from_json(Corruption, entry["corruption"])
        for name, entry in contestants.items()
        if entry.get("corruption")
    }
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
    """Compute, write and return :func:`judge_checks_of`; where there is nothing to say, there is no file."""
    checks = judge_checks_of(folder, folder.read_manifest())
    if checks:
        write_json(folder.judge_checks, _CHECKS.dump_python(checks, mode="json"))
    else:
        folder.judge_checks.unlink(missing_ok=True)
    return checks


def read_judge_checks(folder: RunFolder) -> tuple[JudgeCheck, ...]:
    """Read what :func:`store_judge_checks` wrote; nothing if it wrote nothing.

    Raises:
        ValueError: if another version wrote it.
    """
    if not folder.judge_checks.exists():
        return ()
    return _CHECKS.validate_python(json.loads(folder.judge_checks.read_text("utf-8")))


def print_judge_checks(folder: RunFolder, console: Console) -> None:
    """Print one line for each judge, if the run has anything to say of them."""
    checks = read_judge_checks(folder)
    if not checks:
        return
    confidence = statistics_of(folder.read_manifest()).confidence
    columns = {
        "Right %": [percent(check.accuracy) for check in checks],
        f"{100 * confidence:g} % interval": [_range(check.interval) for check in checks],
        "Brier": [_figure(check.brier) for check in checks],
        "n": [str(check.comparisons) for check in checks],
        "Failed": [str(check.failed) for check in checks],
        "Orders agree %": [percent(check.consistency) for check in checks],
        "First wins %": [percent(check.first_position_rate) for check in checks],
        "Longer": [_figure(check.length_effect, sign=True) for check in checks],
        "Self": [_figure(check.self_preference, sign=True) for check in checks],
        "Again": [_again(check) for check in checks],
    }
    missing = {percent(None), _figure(None)}
    shown = {heading: values for heading, values in columns.items() if not set(values) <= missing}
    table = Table(title="Judging the judges", padding=(0, 1), title_justify="left")
    table.add_column("Judge", overflow="fold", min_width=12)
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for check, *values in zip(checks, *shown.values(), strict=True):
        table.add_row(Text(visible(check.judge)), *values)
    console.print(table)


def _range(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _again(check: JudgeCheck) -> str:
    failed = f", {check.retests_failed} failed" if check.retests_failed else ""
    return f"{_figure(check.retest)} of {check.retests}{failed}" if check.retests or failed else _figure(None)


def _figure(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:+.2f}" if sign else f"{value:.2f}"


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
