"""Stage: what neurons do to the model's output: effects on the next token, and steered texts, block by block."""

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
#: Neurons whose records are written together: what an interruption can cost.
_BLOCK = 32


@dataclass(frozen=True)
class Job:
    """Neurons that are worked on together, and the file that holds what is found.

    Attributes:
        neurons: at the signs that are described.
        path: the file.
        split: for effects, the split of the text.
    """

    neurons: tuple[Neuron, ...]
    path: Path
    split: Split | None = None


def draw_texts(setup: Setup, folder: RunFolder) -> None:
    """Draw the text over which effects are averaged, where it is not drawn yet.

    Raises:
        HarnessError: if the corpus does not suffice.
    """
    config = setup.steering.effects
    for split in setup.effect_splits:
        path = _prompts_path(folder, config, split)
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
    """Measure the effects and generate the texts that methods need and that are not there yet.

    What another configuration left is removed.
    """
    effects, texts = list(_effect_jobs(setup, folder)), list(_text_jobs(setup, folder))
    _remove_others(folder.effects, [job.path for job in effects] + list(_prompt_paths(setup, folder)))
    _remove_others(folder.steered, [job.path for job in texts])
    effects = [job for job in effects if not job.path.exists()]
    texts = [job for job in texts if not job.path.exists()]
    if not effects and not texts:
        return
    scales = peaks(folder.read_exemplars())
    _tell_silent(setup, scales, [setup.steering.effects] * bool(effects) + [setup.steering.texts] * bool(texts))
    model = CausalModel(setup.subject, setup.executor.device)
    try:
        if effects:
            _measure_all(setup, folder, model, effects, scales)
        if texts:
            _generate_all(setup, model, texts, scales)
    finally:
        model.close()


def _tell_silent(setup: Setup, scales: Mapping[Neuron, float], configs: Sequence[EffectsConfig | TextsConfig]) -> None:
    silent = [neuron for neuron in setup.described if neuron not in scales]
    if silent and any(config.unit == Unit.PEAK for config in configs):
        logger.warning(
            "%d of %d neurons are never active on the explain split, such as %s: they have no peak, and nothing is "
            "done to them (steering.effects.unit, steering.texts.unit)",
            len(silent),
            len(setup.described),
            silent[0],
        )


def _effect_jobs(setup: Setup, folder: RunFolder) -> Iterator[Job]:
    for split in setup.effect_splits:
        for block in _blocks(setup.described):
            name = f"{split}-{_name(block, setup.steering.effects)}.effects.parquet"
            yield Job(block, folder.effects / name, split)


def _text_jobs(setup: Setup, folder: RunFolder) -> Iterator[Job]:
    if setup.needs_steered:
        for block in _blocks(setup.described):
            yield Job(block, folder.steered / f"{_name(block, setup.steering.texts)}.parquet")


def _blocks(neurons: Sequence[Neuron]) -> Iterator[tuple[Neuron, ...]]:
    """Yield the neurons in blocks that are always the same; both signs of a neuron stand together."""
    whole = sorted({neuron.unsigned for neuron in neurons})
    for start in range(0, len(whole), _BLOCK):
        members = set(whole[start : start + _BLOCK])
        yield tuple(neuron for neuron in neurons if neuron.unsigned in members)


def _name(block: Sequence[Neuron], config: EffectsConfig | TextsConfig) -> str:
    """Return a file name that changes with all that can change what is found."""
    return f"{block[0].unsigned}-{_digest([*map(str, block)], config)}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _prompts_path(folder: RunFolder, config: EffectsConfig, split: Split) -> Path:
    return folder.effects / f"{split}-{_digest(config.prompts, config.tokens)}.prompts.parquet"


def _prompt_paths(setup: Setup, folder: RunFolder) -> Iterator[Path]:
    return (_prompts_path(folder, setup.steering.effects, split) for split in setup.effect_splits)


def _remove_others(folder: Path, kept: Sequence[Path]) -> None:
    for path in folder.glob("*.parquet"):
        if path not in kept:
            path.unlink()


def _measure_all(
    setup: Setup, folder: RunFolder, model: CausalModel, jobs: Sequence[Job], scales: Mapping[Neuron, float]
) -> None:
    config = setup.steering.effects
    texts: dict[Split, Clamping] = {}
    with progress("effects", sum(len(job.neurons) for job in jobs), "neurons") as advance:
        for job in jobs:
            assert job.split is not None
            if job.split not in texts:
                prompts = read_table(_prompts_path(folder, config, job.split), TextPrompt)
                texts[job.split] = Clamping(model, prompts, setup.beginning, setup.steering.rows)
            given = strengths(job.neurons, config, scales)
            values = {neuron: list(own.values()) for neuron, own in given.items()}
            write_table(job.path, effects_of(texts[job.split], setup.subject, job.split, values, config.top_tokens))
            advance(len(job.neurons))


def _generate_all(setup: Setup, model: CausalModel, jobs: Sequence[Job], scales: Mapping[Neuron, float]) -> None:
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
