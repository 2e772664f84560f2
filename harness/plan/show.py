"""A plan for people: tables in a terminal, the same as plain text in a pipe or a file."""

from __future__ import annotations

import datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.plan.schema import Basis, Exactness, Level, MethodPlan, RolePlan, RunPlan
from harness.results.formatting import visible

#: Before a count: that of every item that was tried, the mean of them, or a bound.
_SIGNS = {Exactness.EXACT: "", Exactness.ESTIMATE: "~"}
_STYLES = {Level.STOP: "bold red", Level.WARNING: "yellow", Level.NOTE: "dim"}
_EVIDENCE = {
    "run": "the run's own evidence",
    "store": "the evidence in the store",
    "probe": "a few documents run through the subject",
    "stand-in": "a tiny random model and Python's reference as text",
}


def show(plan: RunPlan, console: Console) -> None:
    """Print a plan."""
    out = _Page(console)
    out.summary(plan)
    if plan.methods:
        out.methods(plan)
    if plan.roles:
        out.roles(plan)
    out.stages(plan)
    out.disk(plan)
    out.power(plan)
    out.flags(plan)


def duration(seconds: float | None) -> str:
    """Return seconds as people say them: 0.4 s, 12 s, 3 min, 2.5 h, 4 days."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{datetime.timedelta(seconds=seconds).days} days"


def size(count: int | None) -> str:
    """Return bytes as people say them."""
    if count is None:
        return "?"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count} B"


class _Page:
    def __init__(self, console: Console) -> None:
        self._console = console

    def _table(self, title: str, *columns: str, left: int = 1) -> Table:
        """Make a table whose first ``left`` columns are text, and whose others are numbers."""
        table = Table(
            title=title,
            title_justify="left",
            caption_justify="left",
            padding=(0, 1),
            box=box.ROUNDED if self._console.is_terminal else box.MARKDOWN,
        )
        for place, column in enumerate(columns):
            table.add_column(column, justify="left" if place < left else "right", overflow="fold")
        return table

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(visible(text), style=style))

    def summary(self, plan: RunPlan) -> None:
        subject = plan.subject
        self._line(f"Plan of {plan.name} in {plan.folder} ({plan.state}): nothing was asked, started or spent", "bold")
        layers = ", ".join(map(str, plan.layers)) if len(plan.layers) <= 12 else f"{len(plan.layers)}"
        self._line(
            f"{subject.name}: {subject.layers} layers x {subject.d_mlp:,} neurons, d_model {subject.d_model:,}, "
            f"vocabulary {subject.vocabulary:,}{'' if subject.here else ' (not on this machine)'}"
        )
        signs = f", {plan.described:,} with their signs" if plan.described > plan.neurons else ""
        self._line(
            f"{plan.neurons:,} neurons{signs} of layer{'s' if len(plan.layers) > 1 else ''} {layers}; "
            f"{plan.vectors:,} vectors ({', '.join(plan.kinds)}) and {plan.channels:,} channels to decompose"
        )
        if plan.tried:
            self._line(
                f"tried on {plan.tried} neurons with {_EVIDENCE[plan.evidence]}, in {duration(plan.probe_seconds)}. "
                "~ stands before the mean of what was tried, ≤ before a bound; other counts were alike in all",
                "dim",
            )
        self._console.print()

    def methods(self, plan: RunPlan) -> None:
        table = self._table(
            "What is asked",
            "method",
            "kind",
            "items",
            "done",
            "LLM calls",
            "cached",
            "tokens in",
            "tokens out",
            left=2,
        )
        for method in plan.methods:
            total, sign = method.total, _SIGNS[method.exactness]
            again = f" +{method.retests:,} again" if method.retests else ""
            table.add_row(
                Text(visible(method.name) + (" (control)" if method.control else "")),
                method.kind,
                f"{method.items:,}{again}",
                f"{method.done:,}",
                f"{sign}{total.calls:,}" if total.calls else "0",
                f"{'' if _all_tried(plan, method) or not total.cached_calls else '~'}{total.cached_calls:,}",
                _about(total.prompt_tokens),
                _about(total.completion_tokens),
            )
        if plan.schedule != "all":
            table.caption = f"{plan.pairs} pairs of describers, schedule={plan.schedule}"
        else:
            table.caption = f"{plan.pairs} pairs of describers; judges that may mind the order are asked in both"
        self._console.print(table)
        self._console.print()

    def roles(self, plan: RunPlan) -> None:
        table = self._table(
            "LLM roles: left to pay",
            "role",
            "model",
            "calls",
            "tokens in",
            "tokens out",
            "price",
            "time",
            left=2,
        )
        for role in plan.roles:
            amount, sign = role.amount, _SIGNS[role.exactness]
            table.add_row(
                Text(visible(role.role)),
                Text(visible(role.model)),
                f"{sign if amount.paid_calls else ''}{amount.paid_calls:,}",
                _about(amount.paid_prompt_tokens),
                _about(amount.paid_completion_tokens),
                _price(role),
                f"~{duration(role.seconds)}",
            )
        speeds = "; ".join(
            f"{role.role} {role.prompt_tokens_per_second:,.0f} in, {role.completion_tokens_per_second:,.0f} out"
            for role in plan.roles
        )
        counted = {role.tokens_by for role in plan.roles}
        table.caption = (
            f"ASSUMED tokens per second, not measured (--tokens-per-second): {speeds}. Tokens counted by "
            f"{' or '.join(sorted(counted))}; of answers, a usual length. A few test questions per role come on top."
        )
        self._console.print(table)
        self._console.print()

    def stages(self, plan: RunPlan) -> None:
        table = self._table("Time", "stage", "is", "time", "how", left=2)
        table.columns[-1].justify = "left"
        for stage in plan.stages:
            table.add_row(stage.name, stage.basis.value, duration(stage.seconds), stage.note)
        unknown = [stage.name for stage in plan.stages if stage.seconds is None]
        sure = all(stage.basis in (Basis.MEASURED, Basis.NOTHING) for stage in plan.stages)
        rest = f", and what is unknown ({', '.join(unknown)})" if unknown else ""
        table.add_row(
            "all", "estimate" if sure else "in part assumed", duration(plan.seconds), f"statistics aside{rest}"
        )
        self._console.print(table)
        self._console.print()

    def disk(self, plan: RunPlan) -> None:
        table = self._table("Disk", "what", "where", "takes", "free", left=2)
        for room in plan.disk:
            about = "?" if room.bytes is None else f"~{size(room.bytes)}"
            table.add_row(room.what, Text(visible(room.path)), about, size(room.free))
        self._console.print(table)
        self._console.print()

    def power(self, plan: RunPlan) -> None:
        power = plan.power
        if power is None:
            return
        table = self._table(
            "What the neurons can show", "comparison", "smallest difference", f"neurons to show {power.wanted:g}"
        )
        for name, smallest, needed in (
            ("one pair, chosen beforehand", power.smallest_of_one_pair, power.needed_for_one_pair),
            (f"every pair ({power.tests}), corrected", power.smallest_of_every_pair, power.needed_for_every_pair),
        ):
            rates = "" if smallest is None else f" ({50 + 50 * smallest:.0f} % to {50 - 50 * smallest:.0f} %)"
            table.add_row(name, "none" if smallest is None else f"{smallest:.2f}{rates}", f"{needed:,}")
        table.caption = (
            f"{power.neurons:,} neurons, level {power.level:g}, power {power.power:g}; without ties, and as if further "
            "judges and signs of a neuron told nothing new"
        )
        self._console.print(table)
        self._console.print()

    def flags(self, plan: RunPlan) -> None:
        if not plan.flags:
            self._line("nothing looks wrong", "green")
        for flag in plan.flags:
            self._line(f"{flag.level.value}: {flag.text}", _STYLES[flag.level])


def _all_tried(plan: RunPlan, method: MethodPlan) -> bool:
    return plan.tried >= plan.described


def _price(role: RolePlan) -> str:
    if role.cost is None:
        return "own server" if role.managed else "?"
    return f"~{role.cost:,.2f}"


def _about(tokens: int) -> str:
    if tokens >= 1e6:
        return f"~{tokens / 1e6:,.1f} M"
    return f"~{tokens / 1e3:,.0f} k" if tokens >= 1e4 else f"~{tokens:,}" if tokens else "0"
