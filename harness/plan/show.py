"""Prints a plan: tables in a terminal, Markdown tables in a pipe or a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from harness.plan.schema import Basis, RunPlan
from harness.results.formatting import visible

#: Columns that are text.
_TEXT = {"method", "kind", "role", "model", "name", "basis", "note", "what", "path", "comparison"}


def show(plan: RunPlan, console: Console) -> None:
    """Print a plan."""
    subject, layers = plan.subject, ", ".join(map(str, plan.layers))
    signs = f" ({plan.described:,} with their signs)" if plan.described > plan.neurons else ""
    lines = [
        f"Plan of {plan.name} in {plan.folder} ({plan.state})",
        f"{subject.name}: {subject.layers} layers x {subject.d_mlp:,} neurons, d_model {subject.d_model:,}, "
        f"vocabulary {subject.vocabulary:,}{'' if subject.here else ' (not on this machine)'}",
        f"{plan.neurons:,} neurons{signs} of layer{'s' if len(plan.layers) > 1 else ''} {layers}; "
        f"{plan.vectors:,} vectors ({', '.join(plan.kinds)}) and {plan.channels:,} channels to decompose",
    ]
    if plan.tried:
        lines.append(
            f"trial: {plan.tried} neurons, evidence: {plan.evidence}, {_duration(plan.trial_seconds)}; no LLM was "
            "called. ~ marks estimates from the mean of the trial; other counts are exact"
        )
    for line in lines:
        console.print(Text(visible(line)))
    methods = [
        {
            "method": one.name + (" (control)" if one.control else ""),
            "kind": one.kind,
            "items": f"{one.items:,}" + (f" + {one.retests:,} again" if one.retests else ""),
            "done": one.done,
            "LLM calls": _calls(one.total.calls, one.exact),
            "cached": _calls(one.total.calls - one.total.paid_calls, False),
            "tokens in": one.total.prompt_tokens,
            "tokens out": one.total.completion_tokens,
        }
        for one in plan.methods
    ]
    roles = [
        {
            "role": one.role,
            "model": one.model,
            "calls": _calls(one.amount.paid_calls, one.exact),
            "tokens in": one.amount.paid_prompt_tokens,
            "tokens out": one.amount.paid_completion_tokens,
            "tokens/s": f"{one.rate.prompt:,.0f} / {one.rate.completion:,.0f}",
            "price": f"~{one.cost:,.2f}" if one.cost is not None else "own server" if one.managed else "?",
            "seconds": one.seconds,
        }
        for one in plan.roles
    ]
    sure = all(stage.basis in (Basis.MEASURED, Basis.NOTHING) for stage in plan.stages)
    note = "without statistics" + (" and unknown times" if any(one.seconds is None for one in plan.stages) else "")
    total = {"name": "all", "seconds": plan.seconds, "basis": "estimate" if sure else "partly assumed", "note": note}
    assumed = (
        "tokens/s: in / out, ASSUMED and not measured (--tokens-per-second). Tokens: one per 4 characters; answers "
        "have a typical length."
    )
    for title, rows, caption in (
        ("LLM calls by method", methods, ""),
        ("LLM calls that the cache does not answer", roles, assumed),
        ("Time", [*map(dataclasses.asdict, plan.stages), total], ""),
        ("Disk", [dataclasses.asdict(one) for one in plan.disk], ""),
        ("Detectable win-rate difference", [dataclasses.asdict(one) for one in plan.power], "No ties assumed."),
    ):
        if rows:
            console.print()
            console.print(_table(title, rows, caption, terminal=console.is_terminal))
    for kind, style, texts in (("stop", "bold red", plan.stops), ("warning", "yellow", plan.warnings)):
        for text in texts:
            console.print(Text(visible(f"{kind}: {text}"), style=style))


def _table(title: str, rows: Sequence[Mapping[str, Any]], caption: str, *, terminal: bool) -> Table:
    """Return a table with the rows' keys as headings; a column's name determines its format."""
    style = box.ROUNDED if terminal else box.MARKDOWN
    table = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left", box=style)
    for name in rows[0]:
        heading = "time" if name == "seconds" else name.replace("_", " ")
        table.add_column(heading, justify="left" if name in _TEXT else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(_cell(name, value))) for name, value in row.items()))
    return table


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "none" if name in ("smallest_difference", "smallest_ratio") else "?"
    if name == "seconds":
        return _duration(value)
    if name in ("bytes", "free"):
        return decimal(value)
    if name.startswith("tokens"):
        return f"~{value / 1e6:,.1f} M" if value >= 1e6 else f"~{value:,}"
    return f"{value:,}"


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: 12.1 s, 3.2 min, 2.5 h, 4.2 days."""
    for limit, scale, unit in ((120, 1, "s"), (7200, 60, "min"), (259_200, 3600, "h")):
        if seconds < limit:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _calls(count: int, exact: bool) -> str:
    return f"~{count:,}" if count and not exact else f"{count:,}"
