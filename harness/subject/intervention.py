"""Next-token logits and generated text of the subject while activations of neurons are changed.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319, who clamp a feature to +-10.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from harness.errors import HarnessError
from harness.records import Neuron, VectorKind
from harness.subject.decoding import Decoding, Mode
from harness.subject.latents import Dictionary
from harness.subject.modules import Modules, expert_activations, load_model
from harness.subject.subject import Subject


@dataclass(frozen=True)
class Intervention:
    """A change of one neuron's activation, the value that enters the down projection.

    Since the down projection is linear, adding ``a`` to the activation adds ``a`` times the neuron's out vector to the
    output of the MLP, before any norm of that output (Gemma). A latent's out vector is added where its dictionary
    writes; what the dictionary does not reconstruct stays, and so do the other latents.

    Attributes:
        neuron: the neuron; for the negative sign, the value is that of the negated activation.
        value: in the units of the activation.
        mode: whether the value is set or added.
    """

    neuron: Neuron
    value: float
    mode: Mode = Mode.CLAMP

    @classmethod
    def ablation(cls, neuron: Neuron, mean: float = 0.0) -> Intervention:
        """Return the ablation of a neuron: its activation is set to 0 or to its mean."""
        return cls(neuron, mean)

    @property
    def raw(self) -> float:
        """The value for the activation itself, whatever the neuron's sign."""
        return -self.value if self.neuron.negative else self.value


@dataclass(frozen=True)
class OutChange:
    """A change of one neuron's out vector, at all tokens.

    Attributes:
        neuron: a neuron of a dense layer or a shared expert.
        change: (d_model,), added to its out vector.
    """

    neuron: Neuron
    change: Tensor


#: transformers has no type annotations for it.
_config: Any = GenerationConfig


def check_causal(subject: Subject, what: str) -> None:
    """Check that a subject predicts next tokens; ``what`` is the name of the method that needs it.

    Raises:
        HarnessError: if it does not.
    """
    reason = lacks_head(subject)
    if reason:
        raise HarnessError(f"{what} {reason}, or leave it out")


def lacks_head(subject: Subject) -> str | None:
    """Return why a subject cannot predict next tokens, None if it can. Only its config and weight names are read."""
    config = subject.config
    if not subject.architecture.causal:
        return f"needs a causal language model; {subject.name} is a masked/encoder model: choose another subject"
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known and "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
        return (
            f"needs a causal language model; transformers has none for the family {config.model_type!r} of "
            f"{subject.name}: choose another subject"
        )
    if not config.get_text_config().tie_word_embeddings and not subject.weights.has_unembedding:
        return (
            f"needs a causal language model; the checkpoint of {subject.name} has no language-model head "
            f"({' or '.join(subject.architecture.unembedding)}): use the full model"
        )
    return None


class CausalModel:
    """Runs the subject with its language-model head, with one intervention for each row of a batch.

    A neuron of an expert is changed at the tokens that are routed to the expert. Its activation is the value before the
    router's weight is applied.

    Args:
        subject: the model.
        device: device of the model.

    Raises:
        HarnessError: if it is not a causal language model, or cannot be loaded.
    """

    def __init__(self, subject: Subject, device: str) -> None:
        check_causal(subject, "an intervention")
        self._subject, self._device = subject, device
        model: Any = load_model(subject, AutoModelForCausalLM)
        self._model = model.to(device)
        self._modules = Modules(subject, self._model.base_model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        end = self._model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        self._ends = {int(token) for token in [*ends, subject.tokenizer.eos_token_id] if token is not None}
        # Discard the checkpoint's own settings, such as a repetition penalty or a top-k.
        self._model.generation_config = _config()

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        interventions: Sequence[Intervention | OutChange | None],
        *,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        last: bool = False,
    ) -> Tensor:
        """Return the logits of the next token.

        Args:
            input_ids: (B, T) token ids, special tokens included.
            interventions: the intervention of each row; None for no change.
            attention_mask: (B, T), 1 for tokens and 0 for padding; None if there is no padding.
            positions: (B, T), true where activations are changed; None for everywhere.
            last: whether to return the logits of the last position only.

        Returns:
            (B, T, V), or (B, V) with ``last``, on the model's device, in the model's data type.

        Raises:
            HarnessError: if a neuron does not exist, or a logit is not finite.
        """
        mask = (torch.ones_like(input_ids) if attention_mask is None else attention_mask).to(self._device)
        with self._in_force(interventions, positions):
            # Most models can leave out the logits that are not needed.
            kept = {"logits_to_keep": 1} if last and self._keeps_logits else {}
            logits: Tensor = self._model(input_ids=input_ids.to(self._device), attention_mask=mask, **kept).logits
        if last:
            logits, mask = logits[:, -1], mask[:, -1]
        # Logits at padding are undefined. They are copied only if there is padding.
        _check_finite(logits if bool(mask.all()) else logits[mask.bool()], self._subject.name)
        return logits

    @torch.inference_mode()
    def generate(
        self,
        prompt: Sequence[int],
        interventions: Sequence[Intervention | None],
        decoding: Decoding,
        rows: Sequence[np.random.Generator],
        *,
        spare: int = 0,
    ) -> list[list[int]]:
        """Continue one prompt in every row, each with its own intervention and random numbers.

        Rows are independent of each other, apart from the rounding of batched products.

        Args:
            prompt: token ids, special tokens included.
            interventions: the intervention of each row, also at new tokens; None for no change.
            decoding: length and sampling.
            rows: random generator of each row; one number is drawn for each token.
            spare: number of leading tokens of the prompt that are not changed, such as special tokens.

        Returns:
            The new tokens of each row, without the end-of-text token.

        Raises:
            HarnessError: if a neuron does not exist, or a logit is not finite.
        """
        ids = torch.tensor(list(prompt), device=self._device).repeat(len(interventions), 1)
        positions = torch.ones_like(ids, dtype=torch.bool)
        positions[:, :spare] = False
        steps: list[LogitsProcessor] = [_Checked(self._subject.name)]
        if decoding.temperature > 0:
            steps.append(TemperatureLogitsWarper(float(decoding.temperature)))
            if decoding.top_p < 1:
                steps.append(TopPLogitsWarper(decoding.top_p))
            steps.append(_Drawn(rows))
        config = _config(
            max_new_tokens=decoding.tokens,
            do_sample=False,  # _Drawn samples, with the random numbers of each row
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=next(iter(sorted(self._ends)), 0),
            disable_compile=True,  # a compiled model ignores the hooks
        )
        with self._in_force(interventions, positions):
            whole = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=LogitsProcessorList(steps),
            )
        return [self._until_end(row) for row in whole[:, len(prompt) :].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        stop = next((index for index, token in enumerate(tokens) if token in self._ends), len(tokens))
        return tokens[:stop]

    @contextmanager
    def _in_force(
        self, interventions: Sequence[Intervention | OutChange | None], positions: Tensor | None
    ) -> Iterator[None]:
        """Change activations and out vectors within the context."""
        groups: dict[tuple[int, bool], list[tuple[int, Intervention]]] = defaultdict(list)
        out_changes: dict[int, list[tuple[int, OutChange]]] = defaultdict(list)
        for row, given in enumerate(interventions):
            if given is not None:
                neuron = given.neuron
                self._subject.check(neuron.layer, [neuron.index], [], [neuron.expert])
                if isinstance(given, OutChange):
                    out_changes[neuron.layer].append((row, given))
                else:
                    groups[neuron.layer, neuron.expert is not None].append((row, given))
        if positions is not None:
            positions = positions.to(self._device).bool()
        hooks: list[RemovableHandle] = []
        try:
            for (layer, routed), members in groups.items():
                change = _Change(members, len(interventions), positions, self._device)
                neurons = [given.neuron for _, given in members]
                if dictionary := self._subject.weights.dictionaries.get(layer):
                    latents = _LatentChange(change, dictionary, neurons, self._device)
                    hooks.append(self._modules.hook(layer, dictionary.reads, latents.read))
                    hooks.append(self._modules.hook(layer, dictionary.writes, latents.write))
                elif routed:
                    experts = _ExpertChange(change, self._subject, neurons, self._device)
                    hooks.append(self._modules.experts(layer).register_forward_hook(experts))
                else:
                    hooks.append(self._modules.down_projection(layer).register_forward_pre_hook(change.enter))
            for layer, changes in out_changes.items():
                hook = _out_hook(changes, len(interventions), self._device)
                hooks.append(self._modules.down_projection(layer).register_forward_hook(hook))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def close(self) -> None:
        """Free the memory that the model holds, on the accelerator too."""
        del self._model, self._modules
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Change:
    """Changes the activations of one layer: of one neuron in each of the given rows.

    Args:
        members: row numbers and their interventions.
        rows: number of rows in the batch.
        positions: (rows, T), true where activations are changed; None for everywhere. Generated tokens after T are
            always changed.
        device: device of the model.
    """

    def __init__(
        self, members: Sequence[tuple[int, Intervention]], rows: int, positions: Tensor | None, device: str
    ) -> None:
        self._batch = rows
        self.rows = torch.tensor([row for row, _ in members], device=device)
        self._indices = torch.tensor([given.neuron.index for _, given in members], device=device)
        self._values = torch.tensor([given.raw for _, given in members], device=device)[:, None]
        self._added = torch.tensor([given.mode is Mode.ADD for _, given in members], device=device)[:, None]
        self._positions = None if positions is None else positions[self.rows]
        self._seen = 0  # tokens of each row that were processed by earlier calls

    def enter(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Change the input of the down projection: (B, T, neurons), or (B T, neurons) in some families."""
        given = inputs[0]
        activations = given.reshape(self._batch, -1, given.shape[-1]).clone()
        activations[self.rows, :, self._indices] = self.changed(activations[self.rows, :, self._indices])
        return activations.view(given.shape), *inputs[1:]

    def changed(self, activations: Tensor) -> Tensor:
        """Return the changed activations (members, T) of the neurons."""
        values = self._values.to(activations)
        result = torch.where(self._added, activations + values, values)
        length = activations.shape[1]
        if self._positions is not None:
            here = self._positions[:, self._seen : self._seen + length]
            here = torch.nn.functional.pad(here, (0, length - here.shape[1]), value=True)
            result = torch.where(here, result, activations)
        self._seen += length
        return result

    def split(self, values: Tensor) -> Tensor:
        """Return (B T, ...) values of all rows as (B, T, ...)."""
        return values.reshape(self._batch, -1, *values.shape[1:])


def _out_hook(changes: Sequence[tuple[int, OutChange]], batch: int, device: str) -> Any:
    """Return a hook of a down projection, which is linear: its output changes by activation times ``change``."""
    rows = torch.tensor([row for row, _ in changes], device=device)
    indices = torch.tensor([given.neuron.index for _, given in changes], device=device)
    added = torch.stack([given.change for _, given in changes]).to(device)

    def change(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        activations = inputs[0].reshape(batch, -1, inputs[0].shape[-1])[rows, :, indices]  # (changes, T)
        result = output.reshape(batch, -1, output.shape[-1]).clone()
        result[rows] += (activations[..., None] * added[:, None].to(activations)).to(result)
        return result.view(output.shape)

    return change


class _ExpertChange:
    """Changes the output of a layer's experts as if activations inside were changed.

    The output is linear in the activations: it changes by the change of the activation times the router's weight times
    the out vector.
    """

    def __init__(self, change: _Change, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        self._change, self._compute = change, expert_activations(subject, neurons, device)
        self._experts = torch.tensor([neuron.expert for neuron in neurons], device=device)
        indices, experts = [n.index for n in neurons], [n.expert for n in neurons]
        self._out = subject.vectors(neurons[0].layer, indices, VectorKind.OUT, experts).to(device)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden, chosen, weights = inputs
        split, rows = self._change.split, self._change.rows
        # (members, T): for each member, the activations of its neuron in its row.
        every = split(self._compute(module, hidden))[rows]
        own = torch.arange(len(rows), device=every.device)
        activations = every[own, :, own]
        here = split(chosen)[rows] == self._experts[:, None, None]
        weight = (split(weights)[rows] * here).sum(dim=-1)
        moved = (self._change.changed(activations) - activations) * weight
        result = split(output).clone()
        result[rows] += (moved[..., None] * self._out[:, None].to(moved)).to(result)
        return result.view(output.shape)


class _LatentChange:
    """Changes hidden states as if the activations of latents were changed where their dictionary reads."""

    def __init__(self, change: _Change, dictionary: Dictionary, neurons: Sequence[Neuron], device: str) -> None:
        self._change, indices = change, [neuron.index for neuron in neurons]
        self._encode = dictionary.encoder(indices, device)
        self._out = dictionary.vectors(indices, VectorKind.OUT).to(device)
        self._added = self._out  # set by read(): what write() adds, (members, T, d_model)

    def read(self, hidden: Tensor) -> None:
        """Compute the change from the hidden states, (B, T, d_model) or (B T, d_model)."""
        every, scale = self._encode(self._change.split(hidden.flatten(0, -2))[self._change.rows])
        own = torch.arange(len(every), device=every.device)
        activations = every[own, :, own]
        moved = self._change.changed(activations) - activations
        self._added = moved[..., None] * scale * self._out[:, None]

    def write(self, hidden: Tensor) -> Tensor:
        """Return hidden states of the same shape with the change."""
        result = self._change.split(hidden.flatten(0, -2)).clone()
        result[self._change.rows] += self._added.to(result)
        return result.view(hidden.shape)


def _check_finite(logits: Tensor, name: str) -> None:
    # Testing only the extremes saves the memory of a mask.
    low, high = logits.aminmax(dim=-1)
    if not torch.isfinite(high.float() - low.float()).all():
        raise HarnessError(
            f"{name} computes logits that are NaN or infinite under an intervention: choose smaller values (steering) "
            "or subject.dtype=float32"
        )


class _Checked(LogitsProcessor):
    """Checks that logits are finite."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        _check_finite(scores, self._name)
        return scores


class _Drawn(LogitsProcessor):
    """Samples one token in each row by inverting the cumulative distribution at the row's next random number.

    With the same random numbers, similar distributions give similar tokens, so that differences between rows are due to
    the intervention and not to chance.
    """

    def __init__(self, rows: Sequence[np.random.Generator]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        numbers = torch.tensor([row.random() for row in self._rows], dtype=torch.float64, device=scores.device)
        # Relative to the total, which is slightly below 1 due to rounding. Tokens with probability 0 are never drawn.
        drawn = torch.searchsorted(cumulative, (numbers * cumulative[:, -1])[:, None], right=True)
        drawn = drawn.clamp_max(scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)
