"""A control subject: the architecture of a model with its weights shuffled within each matrix.

It has the norms, biases and distributions of weights of the model, and none of what the model has learned: what a
benchmark still finds in it is its noise floor. Source: Heap et al. 2025, arXiv:2501.17727 (randomised transformers).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer

from harness.seeds import derive_seed
from harness.subject.checkpoint import INDEX, Checkpoint
from harness.subject.converted import converted_once, write_weights
from harness.subject.files import ModelFiles, content_hash

logger = logging.getLogger(__name__)


def shuffled(files: ModelFiles, cache: Path, loading: Mapping[str, Any]) -> Path:
    """Return the folder of a model with shuffled weights, which is written at first use.

    The folder is named by the hash of the checkpoint's files.

    Args:
        files: the model; its weights are not quantised.
        cache: folder of all converted models.
        loading: further arguments for transformers.

    Raises:
        HarnessError: if the folder cannot be written.
    """
    digest = hashlib.sha256(" ".join(content_hash(path) for path in Checkpoint(files).paths).encode()).hexdigest()

    def write(new: Path) -> None:
        logger.info("shuffling the weights of %s (once)", files.reference)
        tokenizer = AutoTokenizer.from_pretrained(files.reference, **loading)
        new.mkdir()
        tokenizer.save_pretrained(new)
        for name in ("config.json", "generation_config.json", INDEX):
            if (path := files.fetch(name)) is not None:
                shutil.copyfile(path, new / name)
        for path in Checkpoint(files).paths:
            with safe_open(path, framework="pt") as file:
                weights = {name: _shuffled(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            write_weights(weights, new / path.name)

    return converted_once(files.reference, cache, f"{Path(files.reference).name}-shuffled", digest, "shuffled", write)


def _shuffled(weights: Tensor) -> Tensor:
    """Return a matrix, or each matrix of a stack, with its numbers in another order; vectors stay as they are.

    The order depends on the numbers alone, so that an embedding and an unembedding that are tied stay equal.
    """
    if weights.ndim < 2:
        return weights
    content = hashlib.sha256(weights.contiguous().view(torch.uint8).numpy().data).hexdigest()
    generator = torch.Generator().manual_seed(derive_seed(0, "shuffled weights", content) % 2**63)
    matrices = weights.reshape(-1, weights.shape[-2] * weights.shape[-1])
    mixed = [one[torch.randperm(one.numel(), generator=generator)] for one in matrices]
    return torch.stack(mixed).reshape(weights.shape)
