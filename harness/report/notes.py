"""Sentences of the report: what was compared, and what limits the results."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harness.flat import flatten
from harness.records import Against, Neuron
from harness.results.diagnostics import diagnostics_row, together
from harness.results.formatting import listing, number, percent, plural
from harness.results.pool import Pool
from harness.results.run_data import RunData
from harness.results.schema import AlignmentRow, Board, Cycles, LengthEffect, Trust

SMALL_VARIATION = 0.1
"""Below this fraction of variation in length within pairs of describers, adjusted metrics are called uncertain."""


def summary(run: RunData) -> str:
    """Return two sentences: what was compared on which neurons, and by which judges; or what was decomposed."""
    if not run.compares:
        return _decomposed(run)
    controls = [name for name in run.describers if run.is_control(name)]
    real = [name for name in run.describers if name not in controls]
    layers = sorted({neuron.layer for neuron in run.compared})
    compared = f"{plural(len(real), 'describer')} ({listing(real)})"
    if controls:
        compared += f" and {plural(len(controls), 'control')} ({listing(controls)})"
    verb = "was" if len(real) + len(controls) == 1 else "were"
    where = f" ({_layers(layers)})" if layers else ""
    first = f"{compared} {verb} compared on {count_neurons(run.compared)} of {_subject(run)}{where}."
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
    """Return the number of neurons on which a run compares describers, or that it decomposes; signs count once."""
    return len({neuron.unsigned for neuron in run.compared}) if run.compares else len(run.neurons) + run.left_out


def count_neurons(neurons: Collection[Neuron]) -> str:
    """Return the number of neurons (signs count once), and their signs unless all are positive."""
    signs = describe_signs(neurons)
    return plural(len({neuron.unsigned for neuron in neurons}), "neuron") + (f" {signs}" if signs else "")


def describe_signs(neurons: Collection[Neuron]) -> str:
    """Return at which signs neurons are compared; an empty string if all are positive."""
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
    kinds = listing(sorted({group.kind.value for group in run.diagnostics if group.kind is not None}))
    neurons = plural(len(run.neurons) + run.left_out, "neuron")
    return (
        f"{plural(total.vectors, 'weight vector')} ({kinds}) of {neurons} of {_subject(run)} ({_layers(layers)}) were "
        f"decomposed into {plural(total.found, 'vocabulary channel')}. Nothing was described or judged."
    )


def _subject(run: RunData) -> str:
    return str(run.part("subject").get("name") or "an unnamed subject")


def _layers(layers: Sequence[int]) -> str:
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer{'s' * (len(layers) > 1)} {listing([str(layer) for layer in layers])}"


def explainer_line(run: RunData) -> str | None:
    """Return what the check of the explainer says about the descriptions; None without a check."""
    if not run.leaderboard.explainer:
        return None
    total = run.leaderboard.explainer[0]
    models = sorted({model for entry in run.part("contestants").values() for model in entry.get("models") or ()})
    found = (
        f"The explainer ({listing(models)}) named {percent(total.right)} % of the concepts planted in its evidence "
        f"({percent(total.chance)} % by chance)."
    )
    if not is_competent(run):
        return f"{found} It is not competent: its descriptions do not say what neurons do."
    return found


def is_competent(run: RunData) -> bool:
    """Return whether the explainer named as many planted concepts as the config asks for; true without a check."""
    rows, limit = run.leaderboard.explainer, (run.part("config").get("explainer_check") or {}).get("warn_below") or 0.0
    return not rows or (rows[0].right is not None and rows[0].right >= limit)


def extractive_notice(run: RunData) -> str | None:
    """Return what the results of a run without an LLM can and cannot show; None if an LLM wrote all descriptions."""
    if not run.compares:
        return None
    modes = {
        name: entry.get("mode")
        for name, entry in run.part("contestants").items()
        if isinstance(entry, Mapping) and not entry.get("control")
    }
    if not modes and not run.describers:
        return None
    extractive, given = (sorted(name for name, mode in modes.items() if mode == one) for one in ("extractive", "given"))
    parts = []
    if not any(run.part("llm").values()) and ("llm" in run.manifest or (modes and "llm" not in modes.values())):
        parts.append("No language model was configured for this run.")
        if extractive or not modes:
            which = "" if len(extractive) == len(modes) else f" of {listing(extractive)}"
            parts.append(f"The descriptions{which} are extractive: tokens that each method found, not sentences.")
        if given:
            parts.append(f"The texts of {listing(given)} were given to the run; how they were made is unknown.")
        return " ".join(parts + _readers(run))
    if extractive:
        parts.append(
            f"The descriptions of {listing(extractive)} are extractive: tokens instead of sentences, made without a "
            "language model. Compared with descriptions in prose, their format affects the result as well."
        )
    if given:
        parts.append(
            f"The descriptions of {listing(given)} were given to the run; their evidence and cost are unknown."
        )
    return " ".join(parts) or None


def own_encoder_notice(run: RunData) -> str | None:
    """Return a sentence on the judges whose encoder is the subject itself; None if there are none."""
    judges = sorted(
        name for name, entry in run.part("judges").items() if isinstance(entry, Mapping) and entry.get("uses_subject")
    )
    if not judges:
        return None
    return (
        f"The encoder of {listing(judges)} has the same weights as the subject, so these judges may prefer "
        "descriptions that the subject itself finds similar. Choose another encoder, or another "
        "subject, for independent judges."
    )


def _readers(run: RunData) -> list[str]:
    """Return a sentence on the judges that do not read descriptions, unless all of them do."""
    judges = run.part("judges") or {health.judge: {} for health in run.leaderboard.health}
    readers = sorted(name for name, entry in judges.items() if isinstance(entry, Mapping) and entry.get("is_human"))
    if len(readers) == len(judges):
        return []
    if not readers:
        return [
            "No judge reads descriptions as a language model or a person does: they compare embeddings, words or "
            "responses. The results show whose descriptions are closer to what activates the neurons, not which "
            "method gives better explanations in words or which descriptions a reader would prefer."
        ]
    return [
        f"Of the judges, {listing(readers)} {'records' if len(readers) == 1 else 'record'} the preferences of people "
        "who read the descriptions; the others compare embeddings, words or responses."
    ]


def alignment_line(rows: Sequence[AlignmentRow]) -> str:
    """Return a sentence with the layers and kinds that are aligned with tokens."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row.aligned:
            found.setdefault((row.kind, row.against), []).append(row.layer)
    parts = [
        f"{kind} with the {against}{'' if against == Against.EFFECT else ' token'} ({_layers(layers)})"
        for (kind, against), layers in found.items()
    ]
    return f"Aligned in this run: {listing(parts)}." if parts else "No layer of this run is aligned."


def trust_lines(run: RunData) -> list[tuple[str, Trust]]:
    """Return the trust of all judges together and, if there are several, of each judge."""
    board = run.leaderboard
    lines = [("All judges together", board.overall.trust)]
    return lines + [(f"Judge {one.judge}", one.trust) for one in board.judges if len(board.judges) > 1]


def length_line(effect: LengthEffect) -> str:
    """Return the effect of description length, and how reliable the length-adjusted metrics are."""
    parts = []
    if effect.longer_win_rate is not None:
        parts.append(f"where lengths differ, the longer description wins {percent(effect.longer_win_rate)} %")
    if effect.effect is None:
        parts.append(f"no adjustment: {effect.words[:1].lower()}{effect.words[1:].rstrip('.')}")
    else:
        span = "" if effect.interval is None else f" ({number(effect.interval[0])} to {number(effect.interval[1])})"
        parts.append(f"at equal strength, much longer descriptions gain {number(effect.effect)} logits{span}")
    if effect.own_share is not None:
        parts.append(f"{percent(effect.own_share)} % of the variation in length is within pairs of describers")
        if effect.effect is not None and effect.own_share < SMALL_VARIATION:
            parts.append(
                "this is little, because each describer writes texts of similar length: adjusted metrics are uncertain"
            )
    if effect.unknown:
        parts.append(f"{plural(effect.unknown, 'comparison')} of unknown length left out")
    return f"Length: {'; '.join(parts)}."


def cycle_line(cycles: Cycles) -> str | None:
    """Return how often preferences are circular; None with fewer than three describers."""
    if cycles.rate is None and not cycles.majority:
        return None
    parts = []
    if cycles.rate is not None:
        span = "" if cycles.interval is None else f" ({percent(cycles.interval[0])} to {percent(cycles.interval[1])} %)"
        triads = plural(cycles.triads, "triad")
        parts.append(f"{percent(cycles.rate)} %{span} of {triads} without a tie are circular (25 % by chance)")
    parts += [f"over all neurons {a} beats {b}, {b} beats {c}, and {c} beats {a}" for a, b, c in cycles.majority]
    return f"Transitivity: {'; '.join(parts)}."


def schedule_line(run: RunData) -> str | None:
    """Return which pairs were compared and how that affects the metrics; None if all pairs were compared."""
    comparisons = run.part("config").get("comparisons")
    settings = comparisons if isinstance(comparisons, Mapping) else {}
    if settings.get("schedule") == "baseline":
        return (
            f"Not all pairs were compared: every describer was compared with {settings.get('baseline')} only. The win "
            "rate of the baseline is against all others, the other win rates are against the baseline: compare "
            "describers by strength."
        )
    return None


def control_warnings(run: RunData) -> list[str]:
    """Return one sentence for each board on which a control has at least the win rate of a real describer.

    Controls that know the neuron are left out: they may win.
    """
    found = []
    for board in (run.leaderboard.overall, *run.leaderboard.judges):
        upsets = _upsets(board)
        if upsets:
            who = "All judges together" if board.judge is None else f"Judge {board.judge}"
            found.append(f"{who}: {'; '.join(upsets)}.")
    return found


def _upsets(board: Board) -> list[str]:
    rated = [(row, row.win_rate) for row in board.rows if row.win_rate is not None]
    informed = {check.control for check in board.trust.controls if check.informed}
    upsets = []
    for control, rate in rated:
        if not control.control or control.describer in informed:
            continue
        beaten = [f"{row.describer} ({percent(other)} %)" for row, other in rated if not row.control and other <= rate]
        if beaten:
            upsets.append(f"the control {control.describer} ({percent(rate)} %) ranks no lower than {listing(beaten)}")
    return upsets


def config_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str | None]]]:
    """Return the config options that differ between runs: dotted name and value in each run (None if not set)."""
    flat = [{key: _shown(value) for key, value in flatten(run.part("config")).items()} for run in runs]
    keys = sorted({key for values in flat for key in values if key})
    rows = [(key, [values.get(key) for values in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pooled_line(pooled: Pool) -> str:
    """Return how runs were combined into one leaderboard, and which records were repeated."""
    names = {name for of_run in pooled.names for name in of_run.values()}
    parts = [
        f"{plural(len(pooled.names), 'run')} as one benchmark of {plural(len(names), 'describer')}. A describer with "
        "the same descriptions in several runs is listed once; different versions have the differing settings in "
        "their names."
    ]
    if pooled.repeated:
        parts.append(
            f"{plural(pooled.repeated, 'record')} repeated a record of an earlier run and were not counted"
            + (f"; {pooled.disagreeing:,} of them had a different answer." if pooled.disagreeing else "; all agree.")
        )
    parts.append(
        "Versions of one describer were never compared with each other and met different opponents: compare them by "
        "strength, which is estimated from the opponents they share."
    )
    return " ".join(parts)
