"""A planted model as a checkpoint folder: a Llama in safetensors, its tokenizer, and the truth as JSON."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, PreTrainedTokenizerFast

from harness.errors import HarnessError
from harness.locks import locked
from harness.planted.planting import PlantedWeights, base_model, plant
from harness.planted.settings import Planting
from harness.planted.truth import TRUTH

logger = logging.getLogger(__name__)

HEAD_DIM = 32
#: Small compared with the mean square of an embedding's components (0.003 in MiniLM).
NORM_EPS = 1e-9


def checkpoint_of(planting: Planting, cache: Path) -> Path:
    """Return the folder of a planted model; make the model if it does not exist yet.

    Args:
        planting: the settings.
        cache: folder of all planted models, one subfolder each, named by the settings' key.

    Raises:
        HarnessError: if the model cannot be made or written.
    """
    folder = cache.expanduser() / planting.key
    if (folder / TRUTH).is_file():
        return folder
    logger.info("planting a subject of %d neurons", sum(level.neurons for level in planting.levels.values()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "plants the same subject"):
            if not (folder / TRUTH).is_file():
                write_checkpoint(planting, folder)
    except OSError as error:
        raise HarnessError(
            f"the planted subject cannot be written to {folder} ({error.strerror or error}): choose another folder "
            "with subject.cache"
        ) from error
    return folder


def write_checkpoint(planting: Planting, folder: Path) -> None:
    """Plant a model and write it, the truth last. On one machine, equal settings give equal bytes.

    Raises:
        HarnessError: as :func:`harness.planted.planting.plant`.
    """
    planted = plant(planting)
    save_file(_tensors(planted), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = _tokenizer(planting)
    tokenizer.save_pretrained(folder)
    neurons, width = planted.gate.shape
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(planted.embedding),
        hidden_size=width,
        intermediate_size=neurons,
        num_hidden_layers=1,
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=width // HEAD_DIM,
        hidden_act="silu",
        max_position_embeddings=512,
        rms_norm_eps=NORM_EPS,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    config.planted = planting.key  # so that two plantings in one embedding have different fingerprints
    config.save_pretrained(folder)
    planted.truth.write(folder / TRUTH)


def _tensors(planted: PlantedWeights) -> dict[str, torch.Tensor]:
    width = planted.gate.shape[1]
    layer = "model.layers.0."
    no_attention = {f"{layer}self_attn.{name}_proj.weight": torch.zeros(width, width) for name in "qkvo"}
    norms = ("model.norm.weight", f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight")
    return {
        "model.embed_tokens.weight": planted.embedding,
        "lm_head.weight": planted.unembedding,
        f"{layer}mlp.gate_proj.weight": planted.gate,
        f"{layer}mlp.up_proj.weight": planted.into,
        f"{layer}mlp.down_proj.weight": planted.out.T.contiguous(),
        **no_attention,
        **{name: torch.ones(width) for name in norms},
    }


def _tokenizer(planting: Planting) -> PreTrainedTokenizerFast:
    """Return the embedding's tokenizer with one special token before the text and none after it."""
    given: Any = base_model(planting).tokenizer
    first, last = given.bos_token or given.cls_token, given.eos_token or given.sep_token
    backend = getattr(given, "backend_tokenizer", None)
    if backend is None or first is None or last is None:
        raise HarnessError(
            "the tokenizer of the embedding has no tokenizer.json, or no special tokens for the start and end of a "
            "text: choose another model (subject.planting.sources)"
        )
    backend = type(backend).from_str(json.dumps(json.loads(backend.to_str())))
    backend.no_padding()
    backend.no_truncation()
    backend.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, given.convert_tokens_to_ids(first))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=first,
        eos_token=last,
        unk_token=given.unk_token,
        pad_token=given.pad_token or last,
        mask_token=given.mask_token,
        model_max_length=512,
    )
