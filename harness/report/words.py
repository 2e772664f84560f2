"""What the report says in sentences: what was compared, what to beware of, whether runs can be compared."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harness.flat import flatten
from harness.records import Neuron
from harness.results.comparability import incomparable
from harness.results.diagnostics import diagnostics_row, together
from harness.results.formatting import listing, number, percent, plural
from harness.results.pool import Pool
from harness.results.run_data import RunData
from harness.results.schema import Board, Cycles, LengthEffect, Trust

LITTLE = 0.1
"""Share of the variation in length within pairs of describers below which adjusted figures are called a hint."""


def summary(run: RunData) -> str:
    """Return two sentences: what was compared on what, and judged by whom; or what was decomposed, if no more was."""
    if not run.compares:
        return _decomposed(run)
    controls = [name for name in run.describers if run.is_control(name)]
    real = [name for name in run.describers if name not in controls]
    subject = run.part("subject")
    layers = sorted({neuron.layer for neuron in run.compared})
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {listing([str(layer) for layer in layers])}"
    compared = f"{plural(len(real), 'way')} of describing a neuron ({listing(real)})"
    if controls:
        compared += f" and {plural(len(controls), 'control')} ({listing(controls)})"
    verb = "was" if len(real) + len(controls) == 1 else "were"
    first = f"{compared} {verb} compared on {neurons_told(run.compared)}"
    first += f" of {subject.get('name') or 'an unnamed subject'}" + (f" ({where})." if layers else ".")
    comparators = [health.judge for health in run.leaderboard.health]
    scorers = sorted({row.scorer for row in run.leaderboard.scores})
    ways = []
    if comparators:
        decided = sum(health.comparisons for health in run.leaderboard.health)
        ways.append(f"compared in pairs by {listing(comparators)} ({plural(decided, 'decided comparison')})")
    if scorers:
        ways.append(f"scored one by one by {listing(scorers)}")
    second = f"The descriptions were {' and '.join(ways)}." if ways else "No judge has given a verdict or a score yet."
    return f"{first[0].upper()}{first[1:]} {second}"


def neurons_of(run: RunData) -> int:
    """Return how many whole neurons a run compares describers on, or has on record if it only decomposes."""
    return len({neuron.unsigned for neuron in run.compared}) if run.compares else len(run.neurons) + run.left_out


def neurons_told(neurons: Collection[Neuron]) -> str:
    """Return how many whole neurons these are, and at which signs if that is not the positive one alone."""
    signs = signs_told(neurons)
    return plural(len({neuron.unsigned for neuron in neurons}), "neuron") + (f" {signs}" if signs else "")


def signs_told(neurons: Collection[Neuron]) -> str:
    """Return at which signs neurons are compared, or nothing if that is the positive one alone."""
    if not any(neuron.negative for neuron in neurons):
        return ""
    if all(neuron.negative for neuron in neurons):
        return "at the negative sign"
    count = len({neuron.unsigned for neuron in neurons})
    both = len(neurons) - count
    return "at both signs" if both == count else f"({both} of them at both signs)"


def _decomposed(run: RunData) -> str:
    if not run.diagnostics:
        return "Nothing has been decomposed yet."
    total = diagnostics_row(together(run.diagnostics))
    layers = sorted({group.layer for group in run.diagnostics if group.layer is not None})
    whole = layers == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    where = f"{layers[0]} to {layers[-1]}" if whole else listing([str(layer) for layer in layers])
    kinds = listing(sorted({group.kind.value for group in run.diagnostics if group.kind is not None}))
    neurons = plural(len(run.neurons) + run.left_out, "neuron")
    return (
        f"{plural(total.vectors, 'weight vector')} ({kinds}) of {neurons} of "
        f"{run.part('subject').get('name') or 'an unnamed subject'} (layer{'s' * (len(layers) > 1)} {where}) were "
        f"decomposed into {plural(total.found, 'vocabulary channel')}. Nothing was described or judged."
    )


def extractive_notice(run: RunData) -> str | None:
    """Return what a result without an LLM can and cannot say, or none if every part of the run asked one."""
    if not run.compares:
        return None
    forms = {
        name: entry.get("mode")
        for name, entry in run.part("contestants").items()
        if isinstance(entry, Mapping) and not entry.get("control")
    }
    if not forms and not run.describers:
        return None
    extractive, given = (sorted(name for name, form in forms.items() if form == one) for one in ("extractive", "given"))
    configured = any(run.part("llm").values())
    parts = []
    if not configured and ("llm" in run.manifest or (forms and "llm" not in forms.values())):
        parts.append("No language model was configured for this run.")
        if extractive or not forms:
            whose = "" if len(extractive) == len(forms) else f" of {listing(extractive)}"
            parts.append(
                f"The descriptions{whose} are extractive: the tokens that each method found, not sentences about them."
            )
        if given:
            parts.append(f"Those of {listing(given)} were given to the run, which cannot say how they were made.")
        parts += _unread(run)
        return " ".join(parts)
    if extractive:
        parts.append(
            f"The descriptions of {listing(extractive)} are extractive: tokens and not sentences, made without a "
            "language model. Beside descriptions in prose they win or lose by their form as well as by what they say."
        )
    if given:
        parts.append(
            f"The descriptions of {listing(given)} were given to the run: from how much evidence they were made, and "
            "at what cost, is not known here."
        )
    return " ".join(parts) or None


def _unread(run: RunData) -> list[str]:
    """Say which judges of a run without an LLM read descriptions, if any of them does not."""
    judges = run.part("judges") or {health.judge: {} for health in run.leaderboard.health}
    readers = sorted(name for name, entry in judges.items() if isinstance(entry, Mapping) and entry.get("is_human"))
    if not readers:
        unread = (
            "No judge reads descriptions as a language model or a person does: they compare embeddings, words or "
            "responses. This shows whose descriptions lie closer to what activates the neurons. It cannot say which "
            "method leads to the better explanation in words, nor what a reader would prefer."
        )
        return [unread] if judges else []
    if len(readers) == len(judges):
        return []
    return [
        f"Of the judges, {listing(readers)} {'says' if len(readers) == 1 else 'say'} what people preferred who read "
        "the descriptions; the others read nothing, but compare embeddings, words or responses."
    ]


def trust_lines(run: RunData) -> list[tuple[str, Trust]]:
    """Return who judged and whether controls lost there: all judges together, then each where there are several."""
    board = run.leaderboard
    lines = [("All judges together", board.overall.trust)]
    return lines + [(f"Judge {one.judge}", one.trust) for one in board.judges if len(board.judges) > 1]


def length_line(effect: LengthEffect) -> str:
    """Return what the length of a description did, and how far the adjusted figures can be believed."""
    parts = []
    if effect.longer_win_rate is not None:
        parts.append(f"where lengths differ, the longer description wins {percent(effect.longer_win_rate)} %")
    if effect.effect is None:
        parts.append(f"nothing could be adjusted: {effect.words[:1].lower()}{effect.words[1:].rstrip('.')}")
    else:
        span = "" if effect.interval is None else f" ({number(effect.interval[0])} to {number(effect.interval[1])})"
        parts.append(f"at equal strength, much longer ones gain {number(effect.effect)} logits{span}")
    if effect.own_share is not None:
        parts.append(f"{percent(effect.own_share)} % of the variation in length lies within pairs of describers")
        if effect.effect is not None and effect.own_share < LITTLE:
            parts.append(
                "that is little: length follows from who wrote the description, so read the adjusted figures as a hint"
            )
    if effect.unknown:
        parts.append(f"{plural(effect.unknown, 'comparison')} of unknown length left out")
    return f"Length: {'; '.join(parts)}."


def cycle_line(cycles: Cycles) -> str | None:
    """Return whether preferences go round in circles, or none if no three describers were compared."""
    if cycles.rate is None and not cycles.majority:
        return None
    parts = []
    if cycles.rate is not None:
        span = "" if cycles.interval is None else f" ({percent(cycles.interval[0])} to {percent(cycles.interval[1])} %)"
        parts.append(
            f"{percent(cycles.rate)} %{span} of {plural(cycles.triads, 'triad')} without a tie go round in a circle "
            "(25 % by chance)"
        )
    parts += [f"over all neurons {a} beats {b}, {b} beats {c}, and {c} beats {a}" for a, b, c in cycles.majority]
    return f"Transitivity: {'; '.join(parts)}."


def schedule_line(run: RunData) -> str | None:
    """Return which comparisons were made and what that does to the figures, or none if it was all of them."""
    comparisons = run.part("config").get("comparisons")
    settings = comparisons if isinstance(comparisons, Mapping) else {}
    if settings.get("schedule") == "baseline":
        return (
            f"Not all pairs were compared: every describer met {settings.get('baseline')} and nobody else. That one's "
            "win rate is against all others, theirs against it alone: compare describers by strength."
        )
    return None


def control_warnings(run: RunData) -> list[str]:
    """Return one sentence for each board on which a control does at least as well as a real describer."""
    found = []
    for board in (run.leaderboard.overall, *run.leaderboard.judges):
        upsets = _upsets(board)
        if upsets:
            who = "All judges together" if board.judge is None else f"Judge {board.judge}"
            found.append(f"{who}: {'; '.join(upsets)}.")
    return found


def _upsets(board: Board) -> list[str]:
    rated = [(row, row.win_rate) for row in board.rows if row.win_rate is not None]
    upsets = []
    for control, rate in rated:
        if not control.control:
            continue
        beaten = [f"{row.describer} ({percent(other)} %)" for row, other in rated if not row.control and other <= rate]
        if beaten:
            upsets.append(f"the control {control.describer} ({percent(rate)} %) ranks no lower than {listing(beaten)}")
    return upsets


def config_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str | None]]]:
    """Return the configuration values that differ: the dotted key and each run's value, none where it has none."""
    flat = [{key: _shown(value) for key, value in flatten(run.part("config")).items()} for run in runs]
    keys = sorted({key for values in flat for key in values if key})
    rows = [(key, [values.get(key) for values in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def comparability_warnings(runs: Sequence[RunData]) -> list[str]:
    """Return why the runs' figures must not be read side by side; that describers differ is said with the rest."""
    warnings = [difference.words for difference in incomparable([run.manifest for run in runs])]
    if len({frozenset(run.describers) for run in runs}) > 1:
        warnings.append("The runs compare different describers, and a win rate depends on who the opponents were.")
    return warnings


def pooled_line(pooled: Pool) -> str:
    """Return what became one leaderboard, under which names, and what was answered twice."""
    own = {name for names in pooled.names for name in names.values()}
    parts = [
        f"{plural(len(pooled.names), 'run')} as one benchmark of {plural(len(own), 'describer')}: one whose "
        "descriptions are the same in several runs stands here once, versions that differ under names that say in what."
    ]
    if pooled.repeated:
        parts.append(
            f"{plural(pooled.repeated, 'record')} answered what an earlier run had answered, and count once"
            + (f"; {pooled.disagreeing:,} of them said something else." if pooled.disagreeing else ", all alike.")
        )
    parts.append(
        "Versions of one describer never met, so compare them by strength, which rests on the opponents that they have "
        "in common; win rates have opponents of their own."
    )
    return " ".join(parts)
