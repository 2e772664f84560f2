"""Where the work that needs no LLM is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

import torch
from torch import Tensor

from harness.decomposition import DecompositionConfig, default_budget, vectors_within
from harness.errors import HarnessError

Item = TypeVar("Item")
Result = TypeVar("Result")
Number = TypeVar("Number", int, float)


class Shared(ABC):
    """Tensors that many tasks need. A task carries this handle, which is small and can be pickled, not the tensors."""

    @abstractmethod
    def on(self, device: str) -> tuple[Tensor, ...]:
        """Return the tensors on a device, for reading only; a process copies them there once and not for each task."""


class Executor(ABC):
    """Runs blocks of work. One of your own is a class like those here, and a YAML with its ``_target_``.

    A run enters it as a context manager before the first block and leaves it after the last, whatever happens.

    Attributes:
        device: where this process computes what it does not hand out: ``cpu``, ``cuda``, ``cuda:1``.
        block: weight vectors that are decomposed together, and written together; none: as many as keep the solver busy.
        memory: GiB that a decomposition may use beside the projection; none: on CUDA 80 % of what is free, else 1.
    """

    device: str
    block: int | None = None
    memory: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        """The memory as ``decompose`` takes it."""
        return None if self.memory is None else int(self.memory * 2**30)

    def block_size(self, d_model: int, tokens: int, config: DecompositionConfig) -> int:
        """Return how many weight vectors make a block.

        Raises:
            HarnessError: if the memory does not suffice for one.
        """
        device = torch.device(self.device)
        try:
            fitting = vectors_within(self.memory_bytes or default_budget(device), d_model, tokens, 4, config, device)
        except ValueError as error:
            raise HarnessError(f"{error} (executor.memory)") from error
        if config.solver == "adamw" and (self.block or 0) > fitting:
            raise HarnessError(
                f"adamw takes {fitting} vectors at once in the memory it may use, and executor.block={self.block}: "
                "lower it, or raise executor.memory"
            )
        return self.block or fitting

    def __enter__(self) -> Self:
        """Get ready: start or reach whatever does the work.

        Raises:
            HarnessError: if it cannot be reached.
        """
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Release everything, unfinished work included."""
        return None

    @abstractmethod
    def share(self, *tensors: Tensor) -> Shared:
        """Put tensors, which are on the CPU, where all workers find them, for as long as the handle is alive."""

    @abstractmethod
    def map(self, work: Callable[[Item, str], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``work(item, device)`` of every item, in any order, each as soon as it is there.

        Args:
            work: a function of a module, so that it can be pickled by name; equal items make equal results.
            items: may be a generator: take an item only when it can be worked on soon, so that few are in memory.
        """


class LocalExecutor(Executor):
    """Does one block after the other in this process.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` takes CUDA if there is a GPU. (Not ``mps``: it lacks float64.)
        threads: CPU threads; none leaves it to PyTorch.
        block: weight vectors that are decomposed together; none for as many as keep the solver busy.
        memory: GiB that a decomposition may use beside the projection; none: on CUDA 80 % of what is free, else 1.
    """

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        block: int | None = None,
        memory: float | None = None,
    ) -> None:
        self.device = usable_device(device)
        self.block = None if block is None else positive(block, "block")
        self.memory = None if memory is None else positive(memory, "memory")
        if threads is not None:
            torch.set_num_threads(positive(threads, "threads"))

    def share(self, *tensors: Tensor) -> Shared:
        """Keep them."""
        return _Kept(tensors)

    def map(self, work: Callable[[Item, str], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order."""
        return (work(item, self.device) for item in items)


class _Kept(Shared):
    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors

    def on(self, device: str) -> tuple[Tensor, ...]:
        self._tensors = tuple(tensor.to(device) for tensor in self._tensors)  # copies the first time only
        return self._tensors


def usable_device(name: str) -> str:
    """Return the device's name, with ``auto`` resolved.

    Raises:
        HarnessError: if PyTorch cannot use it here.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if not device.startswith(("cuda", "cpu")):
        raise HarnessError(f"executor.device={device} is not supported; choose auto, cpu or cuda")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HarnessError(
            f"PyTorch cannot use executor.device={device} ({str(error).splitlines()[0]}); use executor.device=cpu"
        ) from error
    return device


def positive(value: Number, name: str) -> Number:
    """Return the value of an executor's option: a count, or a share of something that need not be whole.

    Raises:
        HarnessError: if it is less than 1, or not above 0.
    """
    if not value >= 1 and isinstance(value, int):
        raise HarnessError(f"executor.{name} must be at least 1, not {value}")
    if not value > 0:
        raise HarnessError(f"executor.{name} must be above 0, not {value}")
    return value
