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
        device: where tensors live: ``cpu``, ``cuda``, ``cuda:1``.
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
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` takes CUDA if there is a GPU. (Not ``mps``: it lacks float64.)
        threads: CPU threads; none leaves it to PyTorch.
        block: weight vectors that are decomposed together.
    """

    def __init__(self, device: str = "auto", threads: int | None = None, block: int = 64) -> None:
        if block < 1:
            raise HarnessError(f"executor.block must be at least 1, not {block}")
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if not self.device.startswith(("cuda", "cpu")):
            raise HarnessError(f"executor.device={self.device} is not supported; choose auto, cpu or cuda")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise HarnessError(
                f"PyTorch cannot use executor.device={self.device} ({str(error).splitlines()[0]}); "
                "use executor.device=cpu"
            ) from error
        self.block = block
        if threads is not None:
            torch.set_num_threads(threads)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order."""
        return map(work, items)
