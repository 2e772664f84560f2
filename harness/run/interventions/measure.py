"""Stage: effects of neurons on the next token, and steered texts, measured block by block.

Source of the effects: Gur-Arieh et al. 2025, arXiv:2501.08319 (TokenChange).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.evidence import draw_prompts
from harness.folder import RunFolder, read_table, write_table
from harness.records import Effect, Neuron, Split, SteeredText, TextPrompt, VectorKind
from harness.run.interventions.config import EffectsConfig, TextsConfig, Unit, peaks, strengths
from harness.run.progress import progress
from harness.run.setup import Setup
from harness.seeds import derive_rng
from harness.subject import CausalModel, Intervention, Mode, Subject

logger = logging.getLogger(__name__)
#: Neurons whose records are written together: the most that an interruption can lose.
_BLOCK = 32
Strengths = Mapping[Neuron, Mapping[float, float]]


@dataclass(frozen=True)
class _Job:
    """Neurons, with the signs that are described, whose effects (on text of a split) or texts fill one file."""

    neurons: tuple[Neuron, ...]
    path: Path
    split: Split | None = None


def draw_texts(setup: Setup, folder: RunFolder) -> None:
    """Draw the text over which effects are averaged, unless the folder has it.

    Raises:
        HarnessError: if the corpus is too small.
    """
    size = {"count": setup.steering.effects.prompts, "tokens": setup.steering.effects.tokens}
    for split in setup.effect_splits:
        path = _prompts_path(setup, folder, split)
        if not path.exists():
            assert setup.corpus is not None, "a run that compares has a corpus"
            given: dict[str, Any] = {**size, "seed": setup.seed}
            corpus = setup.corpus
            if split is Split.REPORT and setup.report_corpus is not None:
                corpus, given["seen"] = setup.report_corpus, setup.corpus
            write_table(path, draw_prompts(corpus, setup.subject, setup.evidence, split, **given))


def intervene(setup: Setup, folder: RunFolder) -> None:
    """Measure the effects and generate the texts that methods need and that are missing.

    Files of another configuration are deleted.
    """
    config = setup.steering
    kept = {job.path for job in _jobs(setup, folder)}
    kept |= {_prompts_path(setup, folder, split) for split in setup.effect_splits}
    for path in (*folder.effects.glob("*.parquet"), *folder.steered.glob("*.parquet")):
        if path not in kept:
            path.unlink()
    pending = pending_interventions(setup, folder)
    if not pending:
        return
    effects = [job for job in pending if job.split is not None]
    texts = [job for job in pending if job.split is None]
    exemplars = folder.exemplar_table()
    each = itertools.chain.from_iterable(exemplars.read([one]) for one in exemplars.neurons) if exemplars else ()
    scales = peaks(each)
    _warn_silent(setup, scales, [config.effects] * bool(effects) + [config.texts] * bool(texts))
    model = CausalModel(setup.subject, setup.executor.device)
    try:
        if effects:
            _measure_effects(setup, folder, model, effects, scales)
        if texts:
            _generate_texts(setup, model, texts, scales)
    finally:
        model.close()


def pending_interventions(setup: Setup, folder: RunFolder) -> list[_Job]:
    """Return the blocks of neurons whose effects or texts are missing."""
    return [job for job in _jobs(setup, folder) if not job.path.exists()]


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


def _jobs(setup: Setup, folder: RunFolder) -> Iterator[_Job]:
    """Yield all jobs. Blocks are fixed, and both signs of a neuron are in the same one."""
    config = setup.steering
    for split in setup.effect_splits:
        for block in _blocks(setup.changed(split)):
            yield _Job(block, folder.effects / f"{split}-{_name(block, config.effects)}.effects.parquet", split)
    for block in _blocks(setup.described) if setup.needs_steered else ():
        yield _Job(block, folder.steered / f"{_name(block, config.texts)}.parquet")


def _blocks(neurons: Sequence[Neuron]) -> list[tuple[Neuron, ...]]:
    unsigned = sorted({neuron.unsigned for neuron in neurons})
    parts = [set(unsigned[start : start + _BLOCK]) for start in range(0, len(unsigned), _BLOCK)]
    return [tuple(neuron for neuron in neurons if neuron.unsigned in part) for part in parts]


def _name(block: Sequence[Neuron], config: EffectsConfig | TextsConfig) -> str:
    """Return a file name that changes with everything that can change the records."""
    return f"{block[0].unsigned}-{_digest([*map(str, block)], config)}"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _prompts_path(setup: Setup, folder: RunFolder, split: Split) -> Path:
    config = setup.steering.effects
    return folder.effects / f"{split}-{_digest(config.prompts, config.tokens)}.prompts.parquet"


def _measure_effects(
    setup: Setup, folder: RunFolder, model: CausalModel, jobs: Sequence[_Job], scales: Mapping[Neuron, float]
) -> None:
    config = setup.steering.effects
    clampings: dict[Split, Clamping] = {}
    with progress("effects", sum(len(job.neurons) for job in jobs), "neurons") as advance:
        for job in jobs:
            assert job.split is not None
            if job.split not in clampings:
                prompts = read_table(_prompts_path(setup, folder, job.split), TextPrompt)
                clampings[job.split] = Clamping(model, prompts, setup.beginning, setup.steering.rows)
            values = strengths(job.neurons, config, scales)
            # Only judges need the sample, and describers must not see it.
            sample = setup.subject.random_tokens(config.sampled_tokens, setup.seed) if job.split is Split.REPORT else ()
            effects = effects_of(clampings[job.split], setup.subject, job.split, values, config.top_tokens, sample)
            write_table(job.path, effects)
            advance(len(job.neurons))


def _generate_texts(setup: Setup, model: CausalModel, jobs: Sequence[_Job], scales: Mapping[Neuron, float]) -> None:
    with progress("steered texts", sum(len(job.neurons) for job in jobs), "neurons") as advance:
        for job in jobs:
            write_table(job.path, _steered_texts(setup, model, strengths(job.neurons, setup.steering.texts, scales)))
            advance(len(job.neurons))


class Clamping:
    """Averages the change of the logits over pieces of text of equal length.

    The neuron is clamped at all tokens of all pieces, and the mean is over all of them. Special tokens before the text
    are neither clamped nor counted.

    Args:
        model: the model.
        prompts: the pieces.
        beginning: special tokens before each piece.
        rows: rows of one forward pass.
    """

    def __init__(self, model: CausalModel, prompts: Sequence[TextPrompt], beginning: Sequence[int], rows: int) -> None:
        self._model, self._rows, self._start = model, rows, len(beginning)
        self._ids = torch.tensor([[*beginning, *prompt.tokens] for prompt in prompts])
        self._positions = torch.ones_like(self._ids, dtype=torch.bool)
        self._positions[:, : self._start] = False
        self._plain = self._means([None])[0]

    def changes(self, given: Sequence[Intervention]) -> dict[tuple[Neuron, float], Tensor]:
        """Return the mean change of each token's logit, (V,) float32, by unsigned neuron and raw value.

        Clamps that both signs of a neuron need are computed once.
        """
        distinct = {(one.neuron.unsigned, one.raw): one for one in given}
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
                self._ids[piece], [given[index] for index in which], positions=self._positions[piece]
            )
            each = logits[:, self._start :].sum(dim=1, dtype=torch.float32)
            if sums is None:
                sums = torch.zeros(len(given), each.shape[1], device=each.device)
            sums.index_add_(0, torch.tensor(which, device=each.device), each)
        return torch.empty(0) if sums is None else (sums / (pieces * length)).cpu()


def effects_of(
    clamping: Clamping,
    subject: Subject,
    split: Split,
    values: Strengths,
    top_tokens: int,
    sample: Sequence[int] = (),
) -> Iterator[Effect]:
    """Yield the effects of clamping each neuron to each of its values.

    Args:
        clamping: the model and the text.
        subject: names the tokens.
        split: the split of the text.
        values: the values of each neuron.
        top_tokens: tokens kept of either end.
        sample: ids of further tokens that are kept.
    """
    given = [Intervention(neuron, value) for neuron, clamped in values.items() for value in clamped.values()]
    changes, direct = clamping.changes(given), _DirectLogits(subject, values)
    for one in given:
        change = changes[one.neuron.unsigned, one.raw]
        promoted, suppressed = subject.extreme_tokens(change, top_tokens)
        scale = round(float(change.std(correction=0)), 6)
        own, control = direct.correlations(one, change)
        sampled = subject.scored_tokens(change, sample) if sample else ()
        yield Effect(one.neuron, split, round(one.value, 6), scale, promoted, suppressed, sampled, own, control)


class _DirectLogits:
    """The direct contributions of neurons to the logits, and those of another neuron of the layer of each as control.

    Unused tokens are left out: they can be so far from the others that they decide the correlation.

    Args:
        subject: the model.
        neurons: the neurons; signs do not matter.
    """

    def __init__(self, subject: Subject, neurons: Iterable[Neuron]) -> None:
        self._others = {neuron.unsigned: subject.other_neuron(neuron.unsigned) for neuron in neurons}
        self._used = torch.ones(subject.vocab_size, dtype=torch.bool)
        self._used[sorted(subject.unused_token_ids)] = False
        self._logits: dict[Neuron, Tensor] = {}
        needed = sorted({*self._others, *filter(None, self._others.values())})
        for layer, group in itertools.groupby(needed, key=attrgetter("layer")):
            together = list(group)
            indices, experts = [one.index for one in together], [one.expert for one in together]
            logits = subject.direct_logits(subject.vectors(layer, indices, VectorKind.OUT, experts))
            self._logits |= dict(zip(together, logits[:, self._used], strict=True))

    def correlations(self, given: Intervention, change: Tensor) -> tuple[float | None, float | None]:
        """Return Pearson's r of a change of the logits with the contribution of the neuron, and with the other's.

        A contribution counts with the sign of the value to which the activation is clamped. r is None if it is not
        defined.
        """
        neuron, measured = given.neuron.unsigned, math.copysign(1.0, given.raw) * change[self._used]
        other = self._others[neuron]
        own = pearson(self._logits[neuron], measured)
        return own, None if other is None else pearson(self._logits[other], measured)


def pearson(left: Tensor, right: Tensor) -> float | None:
    """Return Pearson's r of two vectors, or None if one is constant."""
    centred = [(values - values.mean()).double() for values in (left, right)]
    scale = float(centred[0].norm() * centred[1].norm())
    return round(float(centred[0] @ centred[1]) / scale, 6) if scale > 0 else None


def _steered_texts(setup: Setup, model: CausalModel, values: Strengths) -> Iterator[SteeredText]:
    """Yield the texts of some neurons, prompt by prompt."""
    config, beginning, rows = setup.steering.texts, setup.beginning, setup.steering.rows
    # By unsigned neuron and raw value, because both signs of a neuron may need the same text.
    given: dict[tuple[Neuron, float | None], Intervention | None] = {}
    for neuron, by_strength in values.items():
        given[neuron.unsigned, None] = None
        for value in by_strength.values():
            one = Intervention(neuron, value, Mode(config.mode))
            given[neuron.unsigned, one.raw] = one
    tokenizer: Any = setup.subject.tokenizer
    for prompt in config.prompts:
        ids = [*beginning, *tokenizer(prompt, add_special_tokens=False).input_ids]
        work = [(key, sample) for key in given for sample in range(config.samples)]
        made: dict[tuple[tuple[Neuron, float | None], int], str] = {}
        for start in range(0, len(work), rows):
            batch = work[start : start + rows]
            # Independent of the strength, so that texts of different strengths differ only by the strength.
            draws = [derive_rng(setup.seed, "steered", neuron, prompt, sample) for (neuron, _), sample in batch]
            found = model.generate(ids, [given[key] for key, _ in batch], config.decoding, draws, spare=len(beginning))
            for row, new in zip(batch, found, strict=True):
                made[row] = setup.subject.texts.continuation(new)
        for neuron, by_strength in values.items():
            for sample in range(config.samples):
                yield SteeredText(neuron, prompt, sample, None, None, made[(neuron.unsigned, None), sample])
                for strength, value in by_strength.items():
                    text = made[(neuron.unsigned, Intervention(neuron, value).raw), sample]
                    yield SteeredText(neuron, prompt, sample, strength, round(value, 6), text)
