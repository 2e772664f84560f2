"""A tiny random model in place of a subject that is not on this machine.

The config declares the size of the absent model (``subject.shape``). The tiny model has its family, layers and vector
kinds, but few neurons. Methods run on it: the number of LLM calls depends on the config and not on the weights.
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from harness.evidence import Corpus
from harness.subject.architecture import ARCHITECTURES

#: Neurons in each layer of the tiny model.
WIDTH = 32
#: Size of its vocabulary: enough for the longest lists of tokens that methods show.
VOCABULARY = 2000
#: For families whose config contains those of several models: the family of the one that reads text.
_TEXT = {"gemma3": "gemma3_text"}


class StandInCorpus(Corpus):
    """Some texts in place of a corpus; by default the topics of Python's reference, for text that is not here."""

    name = "stand-in"

    def __init__(self, texts: Sequence[Any] = (), template: str | None = None) -> None:
        self._texts = texts or [text for _, text in sorted(pydoc_data.topics.topics.items())]
        self.template = template

    def texts(self) -> Iterator[Any]:
        """Yield the texts."""
        yield from self._texts


def make_stand_in(folder: Path, family: str, layers: int) -> Path:
    """Make the tiny model with a tokenizer, and return its folder."""
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
    special = {f"{name}_token_id": getattr(fast, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = small_config(family, layers, len(fast), **special)
    auto = AutoModelForCausalLM if ARCHITECTURES[family].causal else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = auto.from_config(config)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # with the usual initialisation hardly any neuron is active
    model.eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def small_config(family: str, layers: int, vocabulary: int, **options: Any) -> PretrainedConfig:
    """Return the config of a tiny model of a family without experts: all layers, but few neurons and dimensions."""
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
        **options,
    )
