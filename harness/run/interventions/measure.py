"""Stage: effects of neurons on the next token, and steered texts, measured block by block."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.evidence import draw_prompts
from harness.folder import RunFolder, read_table, write_table
from harness.records import Neuron, Split, TextPrompt
from harness.run.interventions.config import EffectsConfig, TextsConfig, Unit, peaks, strengths
from harness.run.interventions.effects import Clamping, effects_of
from harness.run.interventions.steered_texts import steered_texts
from harness.run.progress import progress
from harness.run.setup import Setup
from harness.subject import CausalModel

logger = logging.getLogger(__name__)
#: Neurons whose records are written together: the most that an interruption can lose.
_BLOCK = 32


@dataclass(frozen=True)
class _Job:
    """Neurons that are processed together, and the file with their records.

    Attributes:
        neurons: with the signs that are described.
        path: the file.
        prompts: for effects, the file with the text over which they are averaged.
        split: for effects, the split of that text.
    """

    neurons: tuple[Neuron, ...]
    path: Path
    prompts: Path | None = None
    split: Split = Split.EXPLAIN


def draw_texts(setup: Setup, folder: RunFolder) -> None:
    """Draw the text over which effects are averaged, unless the folder has it.

    Raises:
        HarnessError: if the corpus is too small.
    """
    config = setup.steering.effects
    for split in setup.effect_splits:
        path = _prompts_path(setup, folder, split)
        if path.exists():
            continue
        assert setup.corpus is not None, "a run that compares has a corpus"
        write_table(
            path,
            draw_prompts(
                setup.corpus,
                setup.subject,
                setup.evidence,
                split,
                count=config.prompts,
                tokens=config.tokens,
                seed=setup.seed,
            ),
        )


def intervene(setup: Setup, folder: RunFolder) -> None:
    """Measure the effects and generate the texts that methods need and that are missing.

    Files of another configuration are deleted.
    """
    effects, texts = list(_effect_jobs(setup, folder)), list(_text_jobs(setup, folder))
    kept = {job.path for job in (*effects, *texts)} | {job.prompts for job in effects}
    for path in (*folder.effects.glob("*.parquet"), *folder.steered.glob("*.parquet")):
        if path not in kept:
            path.unlink()
    effects = [job for job in effects if not job.path.exists()]
    texts = [job for job in texts if not job.path.exists()]
    if not effects and not texts:
        return
    scales = peaks(folder.read_exemplars())
    _warn_silent(setup, scales, [setup.steering.effects] * bool(effects) + [setup.steering.texts] * bool(texts))
    model = CausalModel(setup.subject, setup.executor.device)
    try:
        if effects:
            _measure_effects(setup, model, effects, scales)
        if texts:
            _generate_texts(setup, model, texts, scales)
    finally:
        model.close()


def _warn_silent(setup: Setup, scales: Mapping[Neuron, float], configs: Sequence[EffectsConfig | TextsConfig]) -> None:
    silent = [neuron for neuron in setup.described if neuron not in scales]
    if silent and any(config.unit is Unit.PEAK for config in configs):
        logger.warning(
            "%d of %d neurons are never active on the explain split, such as %s: they have no peak and are not steered "
            "(steering.effects.unit, steering.texts.unit)",
            len(silent),
            len(setup.described),
            silent[0],
        )


def _effect_jobs(setup: Setup, folder: RunFolder) -> Iterator[_Job]:
    for split in setup.effect_splits:
        for block in _blocks(setup.described):
            name = f"{split}-{_name(block, setup.steering.effects)}.effects.parquet"
            yield _Job(block, folder.effects / name, _prompts_path(setup, folder, split), split)


def _text_jobs(setup: Setup, folder: RunFolder) -> Iterator[_Job]:
    if setup.needs_steered:
        for block in _blocks(setup.described):
            yield _Job(block, folder.steered / f"{_name(block, setup.steering.texts)}.parquet")


def _blocks(neurons: Sequence[Neuron]) -> Iterator[tuple[Neuron, ...]]:
    """Yield the neurons in fixed blocks; both signs of a neuron are in the same block."""
    unsigned = sorted({neuron.unsigned for neuron in neurons})
    for start in range(0, len(unsigned), _BLOCK):
        members = set(unsigned[start : start + _BLOCK])
        yield tuple(neuron for neuron in neurons if neuron.unsigned in members)


def _name(block: Sequence[Neuron], config: EffectsConfig | TextsConfig) -> str:
    """Return a file name that changes with everything that can change the records."""
    return f"{block[0].unsigned}-{_digest([*map(str, block)], config)}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _prompts_path(setup: Setup, folder: RunFolder, split: Split) -> Path:
    config = setup.steering.effects
    return folder.effects / f"{split}-{_digest(config.prompts, config.tokens)}.prompts.parquet"


def _measure_effects(setup: Setup, model: CausalModel, jobs: Sequence[_Job], scales: Mapping[Neuron, float]) -> None:
    config = setup.steering.effects
    clampings: dict[Split, Clamping] = {}
    with progress("effects", sum(len(job.neurons) for job in jobs), "neurons") as advance:
        for job in jobs:
            if job.split not in clampings:
                assert job.prompts is not None
                prompts = read_table(job.prompts, TextPrompt)
                clampings[job.split] = Clamping(model, prompts, setup.beginning, setup.steering.rows)
            values = {
                neuron: list(by_strength.values())
                for neuron, by_strength in strengths(job.neurons, config, scales).items()
            }
            write_table(job.path, effects_of(clampings[job.split], setup.subject, job.split, values, config.top_tokens))
            advance(len(job.neurons))


def _generate_texts(setup: Setup, model: CausalModel, jobs: Sequence[_Job], scales: Mapping[Neuron, float]) -> None:
    config = setup.steering.texts
    with progress("steered texts", sum(len(job.neurons) for job in jobs), "neurons") as advance:
        for job in jobs:
            texts = steered_texts(
                model,
                setup.subject,
                strengths(job.neurons, config, scales),
                config,
                beginning=setup.beginning,
                rows=setup.steering.rows,
                seed=setup.seed,
            )
            write_table(job.path, texts)
            advance(len(job.neurons))
