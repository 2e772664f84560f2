"""Models in another form, written once as folders of plain safetensors in a folder that runs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import HarnessError
from harness.locks import written_once
from harness.subject.files import first_line


def converted_once(
    source: str, cache: Path, name: str, digest: str, changed: str, write: Callable[[Path], None]
) -> Path:
    """Return the folder of a converted model, which is written at first use.

    Other processes wait while one writes it.

    Args:
        source: the model, for messages.
        cache: folder of all converted models.
        name: name of the folder, which is completed by the digest.
        digest: hash of the files that the model is made from, in hexadecimal.
        changed: what is done to the model, as a past participle, for messages.
        write: writes the content of the folder, at a path that does not exist yet.

    Raises:
        HarnessError: if the folder cannot be written.
    """
    folder = cache.expanduser().resolve() / f"{name}-{digest[:16]}"
    try:
        written_once(folder, f"writes a {changed} model", write)
    except (OSError, SafetensorError) as error:
        raise HarnessError(
            f"{source} cannot be {changed} in {folder.parent} ({first_line(error)}): choose another folder with "
            "subject.cache"
        ) from error
    return folder


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of safetensors that all may read; safetensors itself writes one that only its owner can read."""
    save_file(dict(weights), path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_plain(model: Any, tokenizer: Any, folder: Path, names: set[str] | None = None) -> None:
    """Write a model and its tokenizer as a checkpoint that is not quantised.

    Args:
        model: the model, with its weights in memory.
        tokenizer: its tokenizer.
        folder: the folder to create.
        names: the weights to write; None for all.
    """
    folder.mkdir()
    seen: set[int] = set()
    weights = {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen and (names is None or name in names):  # a tied head is the embedding
            seen.add(value.data_ptr())
            weights[name] = value.contiguous()
    write_weights(weights, folder / "model.safetensors")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(folder)
