"""Reads single rows and columns from safetensors checkpoints, without loading the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import HarnessError
from harness.subject.files import ModelFiles, Unavailable

#: Names of what belongs to quantised weights: scales, zero points, packed numbers.
_QUANTISED = re.compile(
    r"(weight_scale(_inv|_2)?|_scales?|_blocks|weight_packed|qweight|SCB|weight\.(absmax|quant_map))$"
)
#: Data types of numbers that are weights without further tensors.
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """The tensors of a model, read on demand from one safetensors file (``single``) or several shards.

    Reading raises :class:`HarnessError` if the model has no safetensors files, if a file is damaged, if the weights are
    quantised, or if the values are not finite.
    """

    def __init__(self, files: ModelFiles, single: str = SINGLE) -> None:
        self._files, self._single = files, single

    @cached_property
    def _shards(self) -> dict[str, str]:
        index = self._fetch(INDEX) if self._single == SINGLE else None
        if index is not None:
            try:
                return dict(json.loads(index.read_text())["weight_map"])
            except (ValueError, KeyError, TypeError) as error:
                raise HarnessError(f"{index} is not a safetensors index; download the checkpoint again") from error
        if self._fetch(self._single) is None:
            raise HarnessError(
                f"{self._files.reference} has no safetensors checkpoint ({SINGLE} or {INDEX}); pickled weights are "
                "not supported: convert them with transformers' save_pretrained, or name a GGUF file (FOLDER/FILE.gguf)"
            )
        with self._open(self._single) as file:
            return dict.fromkeys(file.keys(), self._single)

    def _fetch(self, name: str) -> Path | None:
        try:
            return self._files.fetch(name)
        except Unavailable as error:
            raise HarnessError(str(error)) from error

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        path = self._fetch(name)
        if path is None:
            raise HarnessError(f"{self._files.reference} lacks the shard {name} of its index; download it again")
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise HarnessError(f"{path} is damaged ({error}); download it again") from error

    @property
    def names(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._shards)

    @cached_property
    def paths(self) -> list[Path]:
        """Paths of the checkpoint's files, which are downloaded if necessary."""
        names = sorted(set(self._shards.values()))
        return [path for name in names if (path := self._fetch(name)) is not None]

    def sample(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name, shape and data type of every tensor, with the bytes of some of its rows.

        The rows are enough to detect that a tensor was fine-tuned, merged with an adapter or replaced.
        """
        with ExitStack() as stack:
            there = [name for name in sorted(set(self._shards.values())) if self._fetch(name) is not None]
            files = {name: stack.enter_context(self._open(name)) for name in there}
            for name in self.names:
                file = files.get(self._shards[name])
                if file is None:
                    continue
                part = file.get_slice(name)
                shape = part.get_shape()
                rows = sorted({0, shape[0] // 2, shape[0] - 1}) if shape and shape[0] else []
                # For tensors with more than two axes, the first row of each page is enough.
                inner = (slice(0, 1),) * max(0, len(shape) - 2)
                found = [part[(slice(row, row + 1), *inner)].contiguous() for row in rows]
                yield (
                    f"{name} {shape} {part.get_dtype()}",
                    b"".join(one.view(torch.uint8).numpy().tobytes() for one in found),
                )

    def name_of(self, *candidates: str) -> str | None:
        """Return the first name that the checkpoint has, None if it has none of them."""
        return next((name for name in candidates if name in self._shards), None)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as float32."""
        with self._open(self._shards[name]) as file:
            self._check_plain(name, file.get_slice(name).get_dtype())
            return self._checked(name, file.get_tensor(name).float())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        with self._open(self._shards[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def rows(self, name: str, indices: Sequence[int], page: int | None = None) -> Tensor:
        """Return rows of a matrix, or of one page of a tensor (pages, rows, columns).

        Returns:
            (len(indices), columns), float32.
        """
        head = () if page is None else (slice(page, page + 1),)
        with self._open(self._shards[name]) as file:
            matrix = file.get_slice(name)
            self._check_plain(name, matrix.get_dtype())
            rows = [matrix[(*head, slice(index, index + 1))].flatten() for index in indices]
            return self._checked(name, torch.stack(rows).float())

    def columns(self, name: str, indices: Sequence[int], page: int | None = None) -> Tensor:
        """Return columns of a matrix, or of one page of a tensor (pages, rows, columns).

        Returns:
            (len(indices), rows), float32.
        """
        head = (slice(None),) if page is None else (slice(page, page + 1), slice(None))
        with self._open(self._shards[name]) as file:
            matrix = file.get_slice(name)
            self._check_plain(name, matrix.get_dtype())
            *_, rows, columns = matrix.get_shape()
            if len(indices) > columns // 16:  # columns are not contiguous: reading many takes longer than the matrix
                return self._checked(name, matrix[head].reshape(rows, columns)[:, list(indices)].T.float())
            single = [matrix[(*head, slice(index, index + 1))].flatten() for index in indices]
            return self._checked(name, torch.stack(single).float())

    def _check_plain(self, name: str, dtype: str) -> None:
        """Check that a tensor is not quantised: its own numbers would be read without their scales."""
        stem = name.removesuffix("weight")
        scale = next((n for n in self._shards if n.startswith(stem) and _QUANTISED.search(n.removeprefix(stem))), None)
        if dtype not in _PLAIN or scale is not None:
            found = f"it has {dtype} numbers" if scale is None else f"its scales are {scale}"
            raise HarnessError(
                f"the weights {name} of {self._files.reference} are quantised ({found}), but its config.json does not "
                "say how (quantization_config): use the checkpoint that it was made from"
            )

    def _checked(self, name: str, values: Tensor) -> Tensor:
        if not torch.isfinite(values).all():
            raise HarnessError(
                f"the weights {name} of {self._files.reference} contain NaN or infinite numbers: the checkpoint is "
                "damaged; download it again, or choose other neurons"
            )
        return values
