"""Prints a plan: tables in a terminal, Markdown tables in a pipe or a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from harness.plan.schema import Basis, MethodPlan, RolePlan, RunPlan
from harness.results.formatting import visible

_EVIDENCE = {
    "run": "the run's own evidence",
    "store": "the evidence in the store",
    "trial": "a few documents run through the subject",
    "stand-in": "a tiny random model and Python's reference as text",
}


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
            f"trial: {plan.tried} neurons with {_EVIDENCE[plan.evidence]}, {duration(plan.trial_seconds)}; no LLM was "
            "called. ~ marks estimates from the mean of the trial; other counts are exact"
        )
    for line in lines:
        console.print(Text(visible(line)))
    _print(console, "LLM calls by method", map(_method, plan.methods), 2)
    speeds = "; ".join(
        f"{role.role} {role.prompt_tokens_per_second:,.0f} in, {role.completion_tokens_per_second:,.0f} out"
        for role in plan.roles
    )
    caption = (
        f"ASSUMED tokens per second, not measured (--tokens-per-second): {speeds}. Tokens: one per 4 characters; "
        "answers have a typical length."
    )
    _print(console, "LLM calls that the cache does not answer", map(_role, plan.roles), 2, caption)
    unknown = ", ".join(stage.name for stage in plan.stages if stage.seconds is None)
    sure = all(stage.basis in (Basis.MEASURED, Basis.NOTHING) for stage in plan.stages)
    note = "without statistics" + (f" and unknown times ({unknown})" if unknown else "")
    stages = [(stage.name, stage.basis.value, stage.note, duration(stage.seconds)) for stage in plan.stages]
    stages.append(("all", "estimate" if sure else "partly assumed", note, duration(plan.seconds)))
    _print(console, "Time", [dict(zip(("stage", "basis", "note", "time"), row, strict=True)) for row in stages], 3)
    disk = [
        {"content": one.what, "folder": one.path, "needed": _size(one.bytes), "free": decimal(one.free)}
        for one in plan.disk
    ]
    _print(console, "Disk", disk, 2)
    if plan.power is not None:
        power, needed = plan.power, f"neurons to detect {plan.power.wanted:g}"
        rows = [
            {"comparison": name, "smallest difference": _rates(smallest), needed: f"{neurons:,}"}
            for name, smallest, neurons in (
                ("one pair, chosen beforehand", power.smallest_of_one_pair, power.needed_for_one_pair),
                (f"every pair ({power.tests}), corrected", power.smallest_of_every_pair, power.needed_for_every_pair),
            )
        ]
        caption = f"{power.neurons:,} neurons, level {power.level:g}, power {power.power:g}, no ties assumed"
        _print(console, "Detectable win-rate difference", rows, 1, caption)
    for stop in plan.stops:
        console.print(Text(visible(f"stop: {stop}"), style="bold red"))
    for warning in plan.warnings:
        console.print(Text(visible(f"warning: {warning}"), style="yellow"))


def _print(console: Console, title: str, records: Iterable[Mapping[str, str]], left: int, caption: str = "") -> None:
    """Print a table, if there are rows; its first ``left`` columns are text and its other columns are numbers."""
    rows = list(records)
    if not rows:
        return
    style = box.ROUNDED if console.is_terminal else box.MARKDOWN
    table = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left", box=style)
    for index, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row.values()))
    console.print()
    console.print(table)


def _method(method: MethodPlan) -> dict[str, str]:
    total = method.total
    return {
        "method": method.name + (" (control)" if method.control else ""),
        "kind": method.kind,
        "items": f"{method.items:,}" + (f" + {method.retests:,} again" if method.retests else ""),
        "done": f"{method.done:,}",
        "LLM calls": _count(total.calls, method.exact),
        "cached": _count(total.cached_calls, False),
        "tokens in": _tokens(total.prompt_tokens),
        "tokens out": _tokens(total.completion_tokens),
    }


def _role(role: RolePlan) -> dict[str, str]:
    return {
        "role": role.role,
        "model": role.model,
        "calls": _count(role.amount.paid_calls, role.exact),
        "tokens in": _tokens(role.amount.paid_prompt_tokens),
        "tokens out": _tokens(role.amount.paid_completion_tokens),
        "price": f"~{role.cost:,.2f}" if role.cost is not None else "own server" if role.managed else "?",
        "time": f"~{duration(role.seconds)}",
    }


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that suits it: 0.4 s, 12 s, 3 min, 2.5 h, 4 days."""
    if seconds is None:
        return "?"
    for limit, unit, scale, digits in (
        (10, "s", 1, 1),
        (120, "s", 1, 0),
        (7200, "min", 60, 0),
        (259_200, "h", 3600, 1),
    ):
        if seconds < limit:
            return f"{seconds / scale:.{digits}f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _size(count: int | None) -> str:
    return "?" if count is None else f"~{decimal(count)}"


def _count(count: int, exact: bool) -> str:
    return f"~{count:,}" if count and not exact else f"{count:,}"


def _tokens(count: int) -> str:
    return f"~{count / 1e6:,.1f} M" if count >= 1e6 else f"~{count / 1e3:,.0f} k" if count >= 1e4 else f"~{count:,}"


def _rates(difference: float | None) -> str:
    if difference is None:
        return "none"
    return f"{difference:.2f} ({50 + 50 * difference:.0f} % to {50 - 50 * difference:.0f} %)"
