"""Dictionaries in the format of SAELens, written with hand-made weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def random_tensors(d_model: int, latents: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors of a dictionary whose latents are active at about half of the tokens."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d_model, latents), "b_enc": (latents,), "W_dec": (latents, d_model), "b_dec": (d_model,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_dictionary(folder: Path, tensors: dict[str, Tensor], **config: Any) -> str:
    """Write a dictionary, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    return str(folder)
