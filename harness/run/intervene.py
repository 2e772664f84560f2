"""Stage: what neurons do to the model's output: effects on the next token, and steered texts, block by block."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.evidence import draw_prompts
from harness.folder import RunFolder, read_table, write_table
from harness.records import Effect, Neuron, Split, SteeredText, TextPrompt
from harness.run.progress import progress
from harness.run.setup import Setup
from harness.run.steering import EffectsConfig, TextsConfig, Unit, peaks
from harness.seeds import derive_rng
from harness.subject import CausalModel, Intervention, Mode

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
    model = CausalModel(setup.subject, setup.executor.device)
    try:
        if effects:
            _measure_all(setup, folder, model, effects, scales)
        if texts:
            _generate_all(setup, model, texts, scales)
    finally:
        model.close()


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
    whole = sorted({neuron.whole for neuron in neurons})
    for start in range(0, len(whole), _BLOCK):
        members = set(whole[start : start + _BLOCK])
        yield tuple(neuron for neuron in neurons if neuron.whole in members)


def _name(block: Sequence[Neuron], config: EffectsConfig | TextsConfig) -> str:
    """Return a file name that changes with all that can change what is found."""
    return f"{block[0].whole}-{_digest([*map(str, block)], config)}"


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


def _strengths(
    neurons: Sequence[Neuron], config: EffectsConfig | TextsConfig, scales: Mapping[Neuron, float]
) -> dict[Neuron, dict[float, float]]:
    """Return each neuron's strengths as the config tells them, with their values in units of its activation."""
    if config.unit == Unit.ABSOLUTE:
        return {neuron: {value: value for value in config.values} for neuron in neurons}
    silent = [neuron for neuron in neurons if neuron not in scales]
    if silent:
        logger.warning(
            "%d neurons are never active on the explain split, such as %s: nothing is done to them (steering.*.unit)",
            len(silent),
            silent[0],
        )
    return {
        neuron: {value: value * scales[neuron] for value in config.values} for neuron in neurons if neuron in scales
    }


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
            strengths = _strengths(job.neurons, config, scales)
            given = [Intervention(neuron, value) for neuron, own in strengths.items() for value in own.values()]
            changes = texts[job.split].changes(given)
            write_table(
                job.path,
                [
                    _effect(setup, job.split, one, changes[one.neuron.whole, one.raw], config.top_tokens)
                    for one in given
                ],
            )
            advance(len(job.neurons))


def _effect(setup: Setup, split: Split, given: Intervention, change: Tensor, count: int) -> Effect:
    promoted, suppressed = setup.subject.extreme_tokens(change, count)
    scale = round(float(change.std(correction=0)), 6)
    return Effect(given.neuron, split, round(given.value, 6), scale, promoted, suppressed)


class Clamping:
    """Averages the change of the logits over pieces of text of one length.

    The mean is over all tokens of all pieces, and the neuron is clamped at all of them; special tokens before the text
    are left alone, and do not count.

    Args:
        model: the model.
        prompts: the pieces.
        beginning: special tokens that stand before a text.
        rows: rows of one forward pass.
    """

    def __init__(self, model: CausalModel, prompts: Sequence[TextPrompt], beginning: Sequence[int], rows: int) -> None:
        self._model, self._rows, self._start = model, rows, len(beginning)
        self._ids = torch.tensor([[*beginning, *prompt.tokens] for prompt in prompts])
        self._positions = torch.ones_like(self._ids, dtype=torch.bool)
        self._positions[:, : self._start] = False
        self._plain = self._means([None])[0]

    def changes(self, given: Sequence[Intervention]) -> dict[tuple[Neuron, float], Tensor]:
        """Return the mean change of each token's logit, (V,) float32, by the whole neuron and the raw value.

        Both signs of a neuron ask for the same clamps: each is done once.
        """
        distinct = {(one.neuron.whole, one.raw): one for one in given}
        means = self._means(list(distinct.values()))
        return {key: mean - self._plain for key, mean in zip(distinct, means, strict=True)}

    def _means(self, given: Sequence[Intervention | None]) -> Tensor:
        """Return the mean logits under each intervention, (interventions, V), float32, on the CPU."""
        pieces, length = len(self._ids), self._ids.shape[1] - self._start
        work = [(which, piece) for which in range(len(given)) for piece in range(pieces)]
        sums: Tensor | None = None
        for start in range(0, len(work), self._rows):
            which, piece = (list(part) for part in zip(*work[start : start + self._rows], strict=True))
            logits = self._model.logits(
                self._ids[piece], [given[place] for place in which], positions=self._positions[piece]
            )
            each = logits[:, self._start :].sum(dim=1, dtype=torch.float32)
            if sums is None:
                sums = torch.zeros(len(given), each.shape[1], device=each.device)
            sums.index_add_(0, torch.tensor(which, device=each.device), each)
        return torch.empty(0) if sums is None else (sums / (pieces * length)).cpu()


def _generate_all(setup: Setup, model: CausalModel, jobs: Sequence[Job], scales: Mapping[Neuron, float]) -> None:
    config = setup.steering.texts
    with progress("steered texts", sum(len(job.neurons) for job in jobs), "neurons") as advance:
        for job in jobs:
            strengths = _strengths(job.neurons, config, scales)
            write_table(job.path, _texts(setup, model, strengths, config))
            advance(len(job.neurons))


def _texts(
    setup: Setup, model: CausalModel, strengths: Mapping[Neuron, Mapping[float, float]], config: TextsConfig
) -> Iterator[SteeredText]:
    # What is done, by the whole neuron and the raw value: both signs of a neuron may ask for the same text.
    given: dict[tuple[Neuron, float | None], Intervention | None] = {}
    for neuron, own in strengths.items():
        given[neuron.whole, None] = None
        for value in own.values():
            one = Intervention(neuron, value, Mode(config.mode))
            given[neuron.whole, one.raw] = one
    decode: Callable[..., Any] = setup.subject.tokenizer.decode
    for prompt in config.prompts:
        ids = [*setup.beginning, *setup.subject.tokenizer(prompt, add_special_tokens=False).input_ids]
        rows = [(key, sample) for key in given for sample in range(config.samples)]
        made: dict[tuple[tuple[Neuron, float | None], int], str] = {}
        for start in range(0, len(rows), setup.steering.rows):
            batch = rows[start : start + setup.steering.rows]
            # Not of the strength: texts of different strengths are to differ by the strength alone.
            draws = [derive_rng(setup.seed, "steered", neuron, prompt, sample) for (neuron, _), sample in batch]
            found = model.generate(
                ids, [given[key] for key, _ in batch], config.decoding, draws, spare=len(setup.beginning)
            )
            made |= {row: str(decode(new, skip_special_tokens=True)) for row, new in zip(batch, found, strict=True)}
        for neuron, own in strengths.items():
            for sample in range(config.samples):
                yield SteeredText(neuron, prompt, sample, None, None, made[(neuron.whole, None), sample])
                for strength, value in own.items():
                    raw = Intervention(neuron, value).raw
                    text = made[(neuron.whole, raw), sample]
                    yield SteeredText(neuron, prompt, sample, strength, round(value, 6), text)
