"""Quantised checkpoints, written once as a folder of plain weights in float32.

Numbers of eight or fewer bits mean nothing without their scales. Some formats are dequantised exactly by transformers
or by the format's own library; the others are refused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import HarnessError
from harness.subject.checkpoint import Checkpoint
from harness.subject.converted import converted_once, write_plain
from harness.subject.files import ModelFiles, content_hash, first_line
from harness.subject.pretrained import from_pretrained, problem_of

#: Formats that are dequantised exactly on a CPU, and their settings in transformers.
_EXACT = {"fp8": "FineGrainedFP8Config", "compressed-tensors": "CompressedTensorsConfig"}
#: Names of scales in other checkpoints of the format fp8 (vLLM's), and transformers' names for the same numbers.
_FP8_NAMES = {r"\.weight_scale$": ".weight_scale_inv", r"\.input_scale$": ".activation_scale"}


def quantisation_of(files: ModelFiles) -> dict[str, Any] | None:
    """Return the part of a model's config.json that says how its weights are quantised; None if they are not.

    Raises:
        HarnessError: if the config cannot be read.
    """
    path = files.fetch("config.json")
    try:
        config = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        parts = [config, config.get("text_config") or {}]
    except (OSError, ValueError, AttributeError) as error:
        raise HarnessError(f"the config of {files.reference} cannot be read ({first_line(error)})") from error
    keys = ("quantization_config", "compression_config")
    return next((part[key] for part in parts for key in keys if part.get(key)), None)


def dequantised(files: ModelFiles, quantisation: Mapping[str, Any], cache: Path, loading: Mapping[str, Any]) -> Path:
    """Return the folder of a quantised model in float32, which is written at first use.

    The folder is named by the hash of the checkpoint's files.

    Args:
        files: the model.
        quantisation: how its weights are quantised.
        cache: folder of all converted models.
        loading: further arguments for transformers.

    Raises:
        HarnessError: if the format is not dequantised exactly, or if the folder cannot be written.
    """
    method = str(quantisation.get("quant_method", "in an unknown format"))
    if method not in _EXACT:
        raise HarnessError(
            f"{files.reference} is quantised ({method}), which cannot be dequantised exactly here (possible: "
            f"{', '.join(_EXACT)} and GGUF): use the checkpoint that it was made from"
        )
    hashes = [content_hash(path) for path in [files.fetch("config.json"), *Checkpoint(files).paths] if path is not None]
    digest = hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def write(new: Path) -> None:
        _dequantise(files, method, new, loading)

    return converted_once(files.reference, cache, Path(files.reference).name, digest, "dequantised", write)


def _dequantise(files: ModelFiles, method: str, folder: Path, loading: Mapping[str, Any]) -> None:
    try:
        kind: Any = getattr(transformers, _EXACT[method])
        auto: Any = AutoModelForCausalLM
        # Versions before 5.13 have another option for the same.
        known = "dequantize" in inspect.signature(kind).parameters
        options = {"quantization_config": kind(**({"dequantize": True} if known else {"run_compressed": False}))}
        if method == "fp8":
            options["key_mapping"] = _FP8_NAMES
        tokenizer = AutoTokenizer.from_pretrained(files.reference, **loading)
        model, report = from_pretrained(auto, files.reference, dtype=torch.float32, **options, **loading)
        with torch.device("meta"):
            plain = auto.from_config(model.config)
        problem = problem_of(model, report)
    except ImportError as error:
        raise HarnessError(
            f"{files.reference} is quantised ({method}): {first_line(error)} (pip install {method})"
        ) from error
    except Exception as error:  # each library has its own exceptions
        raise HarnessError(f"{files.reference} cannot be dequantised ({method}: {first_line(error)})") from error
    if problem is not None:
        raise HarnessError(f"{files.reference} cannot be dequantised ({method}): {problem}")
    write_plain(model, tokenizer, folder, set(plain.state_dict()))
