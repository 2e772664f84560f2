"""Summary metrics and tables of a finished run for trackers, computed from its records."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.folder import RunFolder
from harness.records import Description, Neuron, RoleUsage, Status, Usage, Verdict, Winner, total_roles
from harness.results import columns
from harness.results.answers import CHECK, answers_of
from harness.results.claims import claim_rows
from harness.results.comparisons import merge_verdicts
from harness.results.diagnostics import DiagnosticsGroup, diagnostics_json, diagnostics_row, together
from harness.results.schema import Leaderboard
from harness.results.stored import stored_judge_checks

Row = dict[str, Any]
_ROLE_METRICS = ("calls", "prompt_tokens", "completion_tokens", "cost", "paid", "cached_calls")


def summary_of_run(folder: RunFolder, leaderboard: Leaderboard, diagnostics: Sequence[DiagnosticsGroup]) -> Row:
    """Return the metrics of a finished run that W&B shows and sweeps can optimise, under the names of docs/metrics.md.

    Metrics without a value are None for describers and judges' health; other metrics without a value are left out.
    """
    found: Row = {}
    rows = leaderboard.overall.rows
    for board in (leaderboard.overall, *leaderboard.judges) if rows else ():
        name = "trust" if board.judge is None else f"trust/{board.judge}"
        found |= {f"{name}/words": board.trust.words, f"{name}/trustworthy": board.trust.trustworthy}
    for row in rows:
        found |= columns.summary_values(columns.BOARD, row, f"{{key}}/{row.describer}")
    for cell in leaderboard.overall.cells:
        found |= columns.summary_values(columns.PAIRS, cell, f"{{key}}/{cell.row}/{cell.column}")
    best = [row for row in rows if not row.control and row.win_rate is not None]
    if best:
        winner = max(best, key=lambda row: (row.win_rate or 0.0, row.describer))
        found |= {"best/describer": winner.describer, "best/win_rate": winner.win_rate}
    for score in leaderboard.scores:
        found |= columns.summary_values(columns.SCORES, score, f"{{key}}/{score.scorer}/{score.describer}")
    for health in leaderboard.health:
        conditions = {"both orders", "top level", *(["people"] if health.people_items else [])}
        found |= columns.summary_values(columns.HEALTH, health, f"judge/{health.judge}/{{key}}", conditions)
    answers = answers_of(folder)
    failed: Counter[str] = Counter()
    for one in answers:
        if one.stage != CHECK:  # those are not about neurons
            failed[one.method] += one.answers - one.statuses.get("ok", 0)
    found |= {f"failed/{method}": count for method, count in failed.items()}
    known: Row = {}
    for group in leaderboard.alignment:
        name = f"alignment/{group.layer}/{group.kind}/{group.against}/{{key}}"
        known |= columns.summary_values(columns.ALIGNMENT, group, name)
    for check in stored_judge_checks(folder) or ():
        known |= columns.summary_values(columns.CHECKS, check, f"judge/{check.judge}/{{key}}")
    for checked in leaderboard.explainer:
        name = "explainer/{key}" if checked.describer is None else f"explainer/{checked.describer}/{{key}}"
        known |= columns.summary_values(columns.EXPLAINER, checked, name)
    for shift in leaderboard.corpus_shift:
        known |= columns.summary_values(columns.SHIFT, shift, f"corpus_shift/{shift.measure}/{shift.describer}/{{key}}")
    for stable in leaderboard.stability:
        known |= columns.summary_values(columns.STABILITY, stable, f"{{key}}/{stable.evidence}/{stable.describer}")
    for written in leaderboard.descriptions:
        known |= columns.summary_values(columns.WRITING, written, f"{{key}}/{written.describer}")
    if diagnostics:
        known |= columns.summary_values(
            columns.DIAGNOSTICS, diagnostics_row(together(diagnostics)), "decomposition/{key}"
        )
    known |= _cost_metrics([one.usage for one in answers])
    return found | {name: value for name, value in known.items() if value is not None}


def _cost_metrics(usages: Sequence[Usage]) -> Row:
    if not usages:
        return {}
    roles = total_roles(usages)
    found: Row = {}
    for role, used in roles.items():
        found |= columns.summary_values(columns.COSTS, used, f"cost/{role}/{{key}}", {"one role", "price"})

    def price(name: str) -> float | None:
        """Add up the roles; the sum is only known if every role has a price."""
        values = [getattr(used, name) for used in roles.values()]
        return math.fsum(values) if values and None not in values else None

    whole = RoleUsage(
        calls=sum(usage.calls for usage in usages),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        seconds=round(math.fsum(usage.seconds for usage in usages), 3),
        cost=price("cost"),
        paid=price("paid"),
    )
    return found | columns.summary_values(columns.COSTS, whole, "cost/{key}", {"all roles", "price"})


def tables_of_run(
    folder: RunFolder, leaderboard: Leaderboard, diagnostics: Sequence[DiagnosticsGroup], manifest: Mapping[str, Any]
) -> dict[str, list[Row]]:
    """Return the tables of a run by name. All rows of a table have the same keys; empty tables are left out."""
    board = leaderboard.to_json()
    boards = [("all judges", board["overall"]), *((one["judge"], one) for one in board["judges"])]
    checks = [dataclasses.asdict(check) for check in stored_judge_checks(folder) or ()]
    pairs = [pair for check in checks for pair in check.pop("pairs")]
    tables: dict[str, list[Row]] = {
        "leaderboard": board["overall"]["rows"],
        "win_matrix": board["overall"]["cells"],
        "scores": board["scores"],
        "neurons": neuron_rows(folder),
        "descriptions": [_flat(record) for record in folder.descriptions().records()],
        "verdicts": [_flat(record) for record in folder.verdicts().records()],
        "tests": board["overall"]["tests"],
        # Not "trust": the table would overwrite the summary metrics trust/words and trust/trustworthy.
        "controls": [{"judge": judge, **check} for judge, one in boards for check in one["trust"]["controls"]],
        "judges": board["health"],
        "checks": checks,
        "pairs": pairs,
        "agreement": board["agreement"],
        "concordance": board["concordance"],
        "breakdown": board["breakdown"],
        "writing": board["descriptions"],
        "explainer": board["explainer"],
        "failures": failure_rows(folder, manifest),
        "costs": cost_rows(folder),
        # Not "alignment", for the same reason.
        "alignment_of_layers": board["alignment"],
        "variance": board["variance"],
        "stability": board["stability"],
        # Not "corpus_shift": the table would overwrite the summary metrics of that name.
        "shift_of_corpus": board["corpus_shift"],
        "claims": [dataclasses.asdict(claim) for claim in claim_rows(diagnostics, manifest)],
        "layers": diagnostics_json(diagnostics)["rows"] if diagnostics else [],
    }
    return {name: rows for name, rows in tables.items() if rows}


def neuron_rows(folder: RunFolder) -> list[Row]:
    """Return one row per neuron: its channel of highest kurtosis, all descriptions and win rates, and all verdicts.

    Failed descriptions show their status in brackets.
    """
    descriptions, verdicts = folder.descriptions().records(), folder.verdicts().records()
    if not descriptions:
        return []
    describers = sorted({record.describer for record in descriptions})
    texts = {(record.neuron, record.describer): _description_text(record) for record in descriptions}
    points: dict[tuple[Neuron, str], list[float]] = defaultdict(list)
    for item in merge_verdicts(verdicts):
        if item.points is not None:
            points[item.neuron, item.left].append(item.points)
            points[item.neuron, item.right].append(1 - item.points)
    verdict_texts: dict[Neuron, list[str]] = defaultdict(list)
    for verdict in verdicts:
        verdict_texts[verdict.neuron].append(_verdict_text(verdict))
    sharpest: dict[Neuron, tuple[float, str]] = {}
    for table in folder.read_columns("channels", ["neuron", "kind", "rank", "kurtosis"]):
        for one in table.to_pylist():
            neuron = Neuron(one["neuron.layer"], one["neuron.index"], one.get("neuron.expert"))
            name = f"{one['kind']} {one['rank']}"
            sharpest[neuron] = max(sharpest.get(neuron, (-math.inf, "")), (one["kurtosis"], name))
    rows = []
    for neuron in sorted({record.neuron for record in descriptions}):
        kurtosis, channel = sharpest.get(neuron.unsigned, (None, None))
        row: Row = {
            "neuron": str(neuron),
            "layer": neuron.layer,
            "index": neuron.index,
            "expert": neuron.expert,
            "sign": neuron.sign.value,
            "kurtosis": kurtosis,
            "channel": channel,
        }
        for name in describers:
            won = points[neuron, name]
            row[f"{name}: description"] = texts.get((neuron, name))
            row[f"{name}: win rate"] = round(math.fsum(won) / len(won), 6) if won else None
        rows.append(row | {"verdicts": "\n".join(verdict_texts[neuron])})
    return rows


def _description_text(record: Description) -> str:
    return record.text if record.status is Status.OK else f"[{record.status}] {record.detail}"


def _verdict_text(verdict: Verdict) -> str:
    if verdict.status is not Status.OK or verdict.winner is None:
        outcome = f"{verdict.first} and {verdict.second}: [{verdict.status}]"
    elif verdict.winner is Winner.TIE:
        outcome = f"{verdict.first} and {verdict.second} tie"
    else:
        order = (verdict.first, verdict.second)
        better, worse = order if verdict.winner is Winner.FIRST else order[::-1]
        outcome = f"{better} beats {worse}"
    return f"{verdict.judge}: {outcome}" + (f" ({verdict.reason})" if verdict.reason else "")


def failure_rows(folder: RunFolder, manifest: Mapping[str, Any]) -> list[Row]:
    """Return the number of unusable answers by method and status, and the judges left out with the reason."""
    keys = ("stage", "method", "status", "count", "of", "such as")
    rows = [
        (one.stage, one.method, status, count, one.answers, one.reasons[status])
        for one in answers_of(folder)
        for status, count in sorted(one.statuses.items())
        if status != "ok"
    ]
    left_out = [("left out", name, None, None, None, why) for name, why in (manifest.get("left_out") or {}).items()]
    return [dict(zip(keys, row, strict=True)) for row in (*rows, *left_out)]


def cost_rows(folder: RunFolder) -> list[Row]:
    """Return the cost of each method by LLM role: calls, tokens, price and the part that was paid."""
    rows: list[Row] = []
    for one in answers_of(folder):
        roles: Mapping[Any, RoleUsage] = one.usage.roles or {None: RoleUsage(seconds=one.usage.seconds)}
        for role, used in roles.items():
            metrics = {name: getattr(used, name) for name in _ROLE_METRICS}
            base = {"stage": one.stage, "method": one.method, "items": one.answers, "role": role}
            rows.append({**base, **metrics, "seconds": round(used.seconds, 3)})
    return rows


def _flat(record: Description | Verdict) -> Row:
    values = {name: value for name, value in vars(record).items() if name not in {"usage", "steps", "parts"}}
    return {name: str(value) if value is not None else None for name, value in values.items()}


def columns_of(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str | int], list[list[Any]]]:
    """Return column names and values of rows with equal keys; nested values become text."""
    rows = list(rows)
    names: list[str | int] = list(rows[0]) if rows else []
    simple = (str, int, float, bool, type(None))
    values = [list(row.values()) for row in rows]
    return names, [[value if isinstance(value, simple) else str(value) for value in row] for row in values]
