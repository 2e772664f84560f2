"""A subject that is not on this machine: its shape as the config tells it, and a tiny model in its place.

The shape says which neurons there are and how large everything will be. The tiny model has the family, the layers and
the vector kinds of the absent one, random weights and few neurons, so that every method can be tried on it: how often
an LLM is asked hangs on the config, not on what the weights say. What does hang on them is marked as an estimate.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import HarnessError
from harness.evidence import Corpus
from harness.records import Neuron
from harness.subject import Subject
from harness.subject.architecture import ARCHITECTURES, MLP
from harness.subject.weights import Weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Neurons of each layer of the model that stands in.
WIDTH = 32
#: Tokens of its vocabulary: enough for the longest lists of tokens that methods show.
VOCABULARY = 2000
#: Of a family whose config only holds others, the one that reads the text.
_TEXT = {"gemma3": "gemma3_text"}
_FIELDS = {"family": str, "layers": int, "d_mlp": int, "d_model": int, "vocabulary": int}


class StandInCorpus(Corpus):
    """Python's own reference, for text that is not on this machine."""

    name = "stand-in"

    def texts(self) -> Iterator[str]:
        """Yield the topics."""
        yield from (text for _, text in sorted(pydoc_data.topics.topics.items()))


class Declared(Subject):
    """An absent subject as far as its declared shape tells: for selecting and checking neurons, never for running.

    Args:
        name: what messages call it.
        folder: of the model that stands in, whose tokenizer and config it borrows.
        shape: ``layers``, ``d_mlp``, ``d_model`` and ``vocabulary`` of the model itself.
    """

    def __init__(self, name: str, folder: Path, shape: Mapping[str, Any]) -> None:
        super().__init__(name, [str(folder)], shape=shape)
        self.declared = dict(shape)

    @cached_property
    def weights(self) -> Weights:
        """The shapes of the weights."""
        return _Shapes(self)

    def projection_name(self, layer: int) -> str:
        """Not known."""
        return ""

    @property
    def max_tokens(self) -> int | None:
        """Not known."""
        return None


class _Shapes(Weights):
    def __init__(self, subject: Declared) -> None:
        super().__init__(subject.name, subject.config.get_text_config(), subject.architecture, subject.checkpoint)
        self.num_layers, self.d_model = subject.declared["layers"], subject.declared["d_model"]
        self._declared = subject.declared

    def width(self, mlp: MLP) -> int:
        """Return the neurons of an MLP."""
        return int(self._declared["d_mlp"])

    def widths(self, layer: int) -> dict[int | None, int]:
        """Return the neurons of a layer."""
        return {None: self._declared["d_mlp"]}

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        return int(self._declared["vocabulary"])


def checked_shape(shape: Any) -> dict[str, Any]:
    """Return a declared shape.

    Raises:
        HarnessError: if it lacks something, or is no shape.
    """
    given = dict(shape) if isinstance(shape, Mapping) else {}
    for name, kind in _FIELDS.items():
        if not isinstance(given.get(name), kind) or (kind is int and given[name] < 1):
            raise HarnessError(
                f"subject.shape needs {', '.join(_FIELDS)}; {name} is {given.get(name)!r} (see conf/subject)"
            )
    if given["family"] not in ARCHITECTURES or ARCHITECTURES[given["family"]].experts is not None:
        dense = sorted(name for name, known in ARCHITECTURES.items() if known.experts is None)
        raise HarnessError(f"subject.shape.family is {given['family']!r}; choose from {', '.join(dense)}")
    return given


def make_stand_in(folder: Path, shape: Mapping[str, Any]) -> Path:
    """Make the tiny model with its tokenizer, and return its folder.

    Args:
        folder: where it goes.
        shape: the absent model's.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(StandInCorpus().texts(), trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    roles = {f"{role}_token_id": getattr(fast, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    config = small_config(shape["family"], shape["layers"], len(fast), **roles)
    auto = AutoModelForCausalLM if ARCHITECTURES[shape["family"]].causal else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)  # the usual start is so small that hardly a neuron is active
    model.eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def small_config(family: str, layers: int, vocabulary: int, **more: Any) -> PretrainedConfig:
    """Return the config of a tiny model of a family: all its layers, with few neurons and dimensions.

    Args:
        family: one of the dense ``ARCHITECTURES``.
        layers: how many.
        vocabulary: tokens.
        more: further fields of the config.
    """
    from transformers import AutoConfig

    family = _TEXT.get(family, family)
    mlp = ARCHITECTURES[family].mlp
    assert mlp is not None
    return AutoConfig.for_model(
        family,
        **{mlp.width: WIDTH},
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        max_position_embeddings=512,
        **more,
    )


def standing_in(neurons: list[Neuron]) -> list[Neuron]:
    """Return neurons of the tiny model for some of the absent one: the same layers and signs, other indices."""
    taken: dict[tuple[int, str], int] = {}
    found = []
    for neuron in neurons:
        place = taken.setdefault((neuron.layer, neuron.sign), 0)
        taken[neuron.layer, neuron.sign] += 1
        found.append(Neuron(neuron.layer, place % WIDTH, None, neuron.sign))
    return sorted(set(found))
