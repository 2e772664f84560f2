"""What the report says in sentences: what was compared, what to beware of, whether runs can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.data import RunData
from harness.report.text import listing, percent, plural
from harness.stats import Board, merit_row, together


def summary(run: RunData) -> str:
    """Return two sentences: what was compared on what, and judged by whom; or what was decomposed, if no more was."""
    if not run.compares:
        return _decomposed(run)
    controls = [name for name in run.describers if run.is_control(name)]
    real = [name for name in run.describers if name not in controls]
    subject = run.part("subject")
    layers = sorted({neuron.layer for neuron in run.neurons})
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {listing([str(layer) for layer in layers])}"
    compared = f"{plural(len(real), 'way')} of describing a neuron ({listing(real)})"
    if controls:
        compared += f" and {plural(len(controls), 'control')} ({listing(controls)})"
    verb = "was" if len(real) + len(controls) == 1 else "were"
    first = f"{compared} {verb} compared on {plural(len(run.neurons), 'neuron')}"
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


def _decomposed(run: RunData) -> str:
    if not run.merit:
        return "Nothing has been decomposed yet."
    total = merit_row(together(run.merit))
    layers = sorted({group.layer for group in run.merit if group.layer is not None})
    whole = layers == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    where = f"{layers[0]} to {layers[-1]}" if whole else listing([str(layer) for layer in layers])
    kinds = listing(sorted({group.kind.value for group in run.merit if group.kind is not None}))
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
        name: entry.get("form")
        for name, entry in run.part("contestants").items()
        if isinstance(entry, Mapping) and not entry.get("control")
    }
    if not forms and not run.describers:
        return None
    extractive = sorted(name for name, form in forms.items() if form == "extractive")
    configured = any(run.part("llm").values())
    if not configured and ("llm" in run.manifest or (extractive and len(extractive) == len(forms))):
        return (
            "No language model was configured for this run. The descriptions are extractive: the tokens that each "
            "method found, not sentences about them; and the judges compare embeddings of texts. This shows which "
            "method's evidence lies closer to what activates the neurons. It cannot say which method leads to the "
            "better explanation in words, nor what a reader, human or model, would prefer."
        )
    if extractive:
        return (
            f"The descriptions of {listing(extractive)} are extractive: tokens and not sentences, made without a "
            "language model. Beside descriptions in prose they win or lose by their form as well as by what they say."
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


def flatten(config: Any, prefix: str = "") -> dict[str, str]:
    """Return a nested mapping as one of dotted keys and JSON values."""
    if isinstance(config, Mapping) and config:
        flat: dict[str, str] = {}
        for key, value in config.items():
            flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: config if isinstance(config, str) else json.dumps(config, ensure_ascii=False)}


def config_differences(runs: Sequence[RunData]) -> list[tuple[str, list[str | None]]]:
    """Return the configuration values that differ: the dotted key and each run's value, none where it has none."""
    flat = [flatten(run.part("config")) for run in runs]
    keys = sorted({key for values in flat for key in values if key})
    rows = [(key, [values.get(key) for values in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def comparability_warnings(runs: Sequence[RunData]) -> list[str]:
    """Return why the runs' figures must not be read side by side: another subject, other neurons, another corpus."""
    warnings = []
    subjects = {str(run.part("subject").get("fingerprint") or run.part("subject").get("name")) for run in runs}
    if len(subjects) > 1:
        warnings.append("The runs study different subject models, so their neurons have nothing in common.")
    neurons = [set(run.neurons) for run in runs]
    if any(one != neurons[0] for one in neurons):
        shared = len(set.intersection(*neurons))
        counts = listing([str(len(one)) for one in neurons])
        warnings.append(f"The runs describe different neurons ({counts}; {shared} in common).")
    if len({json.dumps(run.part("corpus"), sort_keys=True, default=str) for run in runs}) > 1:
        warnings.append("The runs draw their evidence from different corpora, so their exemplars differ.")
    if len({tuple(health.judge for health in run.leaderboard.health) for run in runs}) > 1:
        warnings.append("The runs have different judges, so their overall win rates are means over different judges.")
    if len({frozenset(run.describers) for run in runs}) > 1:
        warnings.append("The runs compare different describers, and a win rate depends on who the opponents were.")
    return warnings
