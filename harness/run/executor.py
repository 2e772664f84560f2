"""Where the work that needs no LLM is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from harness.errors import HarnessError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(ABC):
    """Runs blocks of work.

    Attributes:
        device: where tensors live: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        block: weight vectors that are decomposed together.
    """

    device: str
    block: int

    @abstractmethod
    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results, in any order, each as soon as it is there."""


class LocalExecutor(Executor):
    """Does one block after the other in this process.

    Args:
        device: ``auto`` takes the accelerator if there is one.
        threads: CPU threads; none leaves it to PyTorch.
        block: weight vectors that are decomposed together.
    """

    def __init__(self, device: str = "auto", threads: int | None = None, block: int = 64) -> None:
        if block < 1:
            raise HarnessError(f"executor.block must be at least 1, not {block}")
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.device = (accelerator.type if accelerator else "cpu") if device == "auto" else device
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise HarnessError(
                f"executor.device={self.device}, but PyTorch sees no CUDA device; use executor.device=cpu"
            )
        self.block = block
        if threads is not None:
            torch.set_num_threads(threads)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order."""
        return map(work, items)
