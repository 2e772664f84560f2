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
from harness.report.text import percent, visible
from harness.stats.judges import JudgeCheck, judge_checks

_CHECKS = TypeAdapter(tuple[JudgeCheck, ...])


def store_judge_checks(folder: RunFolder) -> tuple[JudgeCheck, ...]:
    """Compute, from a run's records and manifest alone, what its judges are worth; write and return it.

    A run without contestants of known quality, whose judges were asked nothing twice either, has nothing to say; then
    there is no file.
    """
    manifest = folder.read_manifest()
    contestants, judges = manifest.get("contestants", {}), manifest.get("judges", {})
    known = {
        name: from_json(Corruption, entry["corruption"])
        for name, entry in contestants.items()
        if entry.get("corruption")
    }
    retests, score_retests = folder.retests().records(), folder.score_retests().records()
    if not known and not retests and not score_retests:
        folder.judge_checks.unlink(missing_ok=True)
        return ()
    checks = judge_checks(
        folder.verdicts().records(),
        folder.scores().records(),
        folder.descriptions().records(),
        known,
        seed=manifest["seed"],
        retests=retests,
        score_retests=score_retests,
        models=_models(contestants) | _models(judges),
    )
    write_json(folder.judge_checks, _CHECKS.dump_python(checks, mode="json"))
    return checks


def read_judge_checks(folder: RunFolder) -> tuple[JudgeCheck, ...]:
    """Read what :func:`store_judge_checks` wrote; nothing if it wrote nothing."""
    if not folder.judge_checks.exists():
        return ()
    return _CHECKS.validate_python(json.loads(folder.judge_checks.read_text("utf-8")))


def print_judge_checks(folder: RunFolder, console: Console) -> None:
    """Print one line for each judge, if the run has anything to say of them."""
    checks = read_judge_checks(folder)
    if not checks:
        return
    table = Table(title="Judging the judges", padding=(0, 1), title_justify="left")
    table.add_column("Judge", overflow="fold", min_width=12)
    headings = (
        "Right %",
        "95 % interval",
        "Brier",
        "n",
        "Failed",
        "Consistent %",
        "First %",
        "Longer",
        "Self",
        "Again",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for check in checks:
        low_high = check.interval
        table.add_row(
            Text(visible(check.judge)),
            Text(percent(check.accuracy), style="bold"),
            "–" if low_high is None else f"{percent(low_high[0])} to {percent(low_high[1])}",
            _figure(check.brier),
            str(check.comparisons),
            Text(str(check.failed), style="red" if check.failed else ""),
            percent(check.consistency),
            percent(check.first_position_rate),
            _figure(check.length_effect, sign=True),
            _figure(check.self_preference, sign=True),
            _figure(check.retest),
        )
    console.print(table)


def _figure(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:+.2f}" if sign else f"{value:.2f}"


def _models(entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the models of each contestant or judge, and of a panel's members as ``panel/member``."""
    found = {name: entry.get("models", []) for name, entry in entries.items()}
    for name, entry in entries.items():
        for member, inner in (entry.get("members") or {}).items():
            found[f"{name}/{member}"] = inner.get("models", [])
    return found
