"""Models in GGUF files, written once as a folder of safetensors that transformers, vLLM and lazy reads can use.

Loading a GGUF file takes transformers seconds to minutes each time, most of it for the vocabulary. Opening the
safetensors takes milliseconds, and rows and columns are read from it like those of any other checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import HarnessError
from harness.subject.converted import converted_once, write_plain
from harness.subject.files import first_line, sha256
from harness.subject.pretrained import from_pretrained, problem_of

logger = logging.getLogger(__name__)

#: Values of ``general.architecture`` of the families that both transformers reads from GGUF and this package knows.
FAMILIES = ("gemma2", "gemma3", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe")


def converted(parts: Sequence[Path], cache: Path, expected: str | None) -> Path:
    """Return the folder of a GGUF file's model in float32, which is written at first use.

    The folder is named by the file's SHA-256. No code from the file runs.

    Args:
        parts: the file, or the parts to join to it.
        cache: folder of all converted models.
        expected: expected SHA-256 of the (joined) file; None to skip the check.

    Raises:
        HarnessError: if the file has another hash, is damaged, has an architecture or quantisation that is not
            supported, or if the folder cannot be written.
    """
    source, found = str(parts[0]), sha256(*parts)
    if expected not in (None, found):
        raise HarnessError(
            f"{source} is not the expected file (SHA-256 {found}, expected {expected}): download it again, choose "
            "another source, or set subject.sha256=null to accept this one"
        )

    def write(new: Path) -> None:
        logger.info("converting %s to safetensors (once; minutes for a large model)", source)
        with _joined(parts, new.parent) as path:
            _convert(path, new, source)

    return converted_once(source, cache, parts[0].name.partition(".gguf")[0], found, "converted", write)


@contextmanager
def _joined(parts: Sequence[Path], folder: Path) -> Iterator[Path]:
    """Yield the one file of the parts, which is a temporary one in a folder if there are several."""
    if len(parts) == 1:
        yield parts[0]
        return
    with NamedTemporaryFile(suffix=".gguf", dir=folder) as file:
        for part in parts:
            with part.open("rb") as read:
                shutil.copyfileobj(read, file, 1 << 20)
        file.flush()
        yield Path(file.name)


def _convert(path: Path, folder: Path, source: str) -> None:
    """Write the model of a GGUF file: weights, config, tokenizer and chat template."""
    begins_with_bos, held = _check(path, source)
    options: dict[str, Any] = {"dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # such versions would keep the blocks, with a kernel from the hub
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model, report = from_pretrained(AutoModelForCausalLM, str(path.parent), gguf_file=path.name, **options)
    except Exception as error:  # transformers and gguf raise many classes for damaged files
        raise _unusable(source, error) from error
    if (problem := problem_of(model, report)) is not None:
        raise HarnessError(
            f"{source} cannot be used as a {model.config.model_type} model: {problem}; choose a file of another model"
        )
    used = sum({value.data_ptr(): value.numel() for value in model.state_dict().values()}.values())
    if used != held:  # transformers passes over tensors that its model has not, such as biases
        raise HarnessError(
            f"{source} cannot be used: it holds {held} numbers, and a {model.config.model_type} model of transformers "
            f"uses {used} of them; choose the model's safetensors"
        )
    if begins_with_bos and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True  # transformers ignores this field of the file
    write_plain(model, tokenizer, folder)


def _check(path: Path, source: str) -> tuple[bool, int]:
    """Check that a GGUF file is complete and supported.

    Returns:
        Whether texts begin with the token for it, and the number of weights that the file holds.
    """
    from gguf import GGUFReader, dequantize  # only needed once per file

    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
        family = fields["general.architecture"]
    except Exception as error:  # gguf raises whatever numpy does
        raise _unusable(source, error) from error
    if family not in FAMILIES:
        raise HarnessError(
            f"{source} cannot be used: the architecture {family!r} is not supported as GGUF (supported: "
            f"{', '.join(FAMILIES)}); choose the model's safetensors"
        )
    for tensor in {one.tensor_type: one for one in reader.tensors}.values():
        try:
            dequantize(tensor.data[:1], tensor.tensor_type)
        except NotImplementedError as error:
            raise HarnessError(
                f"{source} cannot be used: the quantisation {tensor.tensor_type.name} of {tensor.name} is not "
                "supported; choose a file with another one, such as Q8_0 or Q4_K_M"
            ) from error
    types = {fields.get(f"{family}.rope.scaling.type", "none"), "none"}
    factors = [fields.get(f"{family}.rope.{name}") or 1.0 for name in ("scaling.factor", "scale_linear")]
    tables = [tensor for tensor in reader.tensors if tensor.name.startswith("rope_")]
    factors += [factor for one in tables for factor in dequantize(one.data, one.tensor_type).flat]
    if len(types) > 1 or any(factor != 1 for factor in factors):  # transformers would ignore it without a warning
        raise HarnessError(
            f"{source} cannot be used: it scales its position embeddings (as Llama 3.1 does), which transformers does "
            "not read from GGUF; choose the model's safetensors"
        )
    # llama.cpp's default: SentencePiece vocabularies ("llama") begin with the token, byte-level ones do not.
    begins_with_bos = bool(fields.get("tokenizer.ggml.add_bos_token", fields.get("tokenizer.ggml.model") == "llama"))
    # Factors of position embeddings, which are all 1, are no weights in transformers.
    held = sum(int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_"))
    return begins_with_bos, held


def _unusable(source: str, error: Exception) -> HarnessError:
    return HarnessError(
        f"{source} is damaged or not a GGUF file that transformers reads ({first_line(error)}): "
        "download it again, or choose another file"
    )
