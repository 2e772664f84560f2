"""Where vectors are decomposed and the corpus is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from harness.errors import HarnessError
from harness.validation import Count, Positive, validated

if TYPE_CHECKING:
    from torch import Tensor

    from harness.decomposition import DecompositionConfig

Item = TypeVar("Item")
Result = TypeVar("Result")


class Shared(ABC):
    """Tensors that many tasks need. A task carries this small handle, which can be pickled, instead of the tensors."""

    @abstractmethod
    def on(self, device: str) -> tuple[Tensor, ...]:
        """Return the tensors on a device, for reading only; a process copies them there once, not for each task."""


class Executor(ABC):
    """Runs blocks of work. To add one, write a class like those here and a YAML with its ``_target_``.

    A run enters it as a context manager before the first block and leaves it after the last, also after an error.
    PyTorch is imported when the executor is first used, so that a mistake in the options is found before.

    Attributes:
        requested: the device where this process computes everything else, as the config names it.
        block: weight vectors that are decomposed together; None: as many as keep the solver busy.
        memory: GiB that a decomposition may use besides the projection; None: on CUDA 80 % of the free memory, else 1.
        workers: items that are worked on at the same time.
        reads_corpus: whether the corpus is read through ``map`` too; workers then need the subject's files. Otherwise
            this process reads it.
    """

    block: int | None = None
    memory: float | None = None
    workers: int = 1
    requested: str = "auto"
    reads_corpus: bool = False

    @cached_property
    def device(self) -> str:
        """Where this process computes everything else: ``cpu``, ``cuda``, ``cuda:1``.

        Raises:
            HarnessError: if PyTorch cannot use it here.
        """
        return usable_device(self.requested)

    @property
    def memory_bytes(self) -> int | None:
        """The memory in bytes."""
        return None if self.memory is None else int(self.memory * 2**30)

    def block_size(self, d_model: int, tokens: int, config: DecompositionConfig, *, joined: bool = False) -> int:
        """Return how many weight vectors are decomposed in one call.

        Args:
            d_model: width of the residual stream.
            tokens: size of the vocabulary.
            config: settings of the decomposition.
            joined: of several layers or kinds: at most as many as are searched in parallel here. Otherwise some times
                as many.

        Raises:
            HarnessError: if there is not enough memory for one.
        """
        import torch

        from harness.decomposition import default_budget, vectors_within

        device = torch.device(self.device)
        try:
            budget = self.memory_bytes or default_budget(device)
            fitting = vectors_within(budget, d_model, tokens, 4, config, device, once=joined)
        except ValueError as error:
            raise HarnessError(f"{error} (executor.memory)") from error
        if config.solver == "adamw" and (self.block or 0) > fitting:
            raise HarnessError(
                f"adamw can decompose {fitting} vectors at once in its memory, but executor.block={self.block}: lower "
                "executor.block, or raise executor.memory"
            )
        return min(self.block or fitting, fitting) if joined else self.block or fitting

    def __enter__(self) -> Self:
        """Start or connect to the workers.

        Raises:
            HarnessError: if they cannot be reached.
        """
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Release everything, also unfinished work."""
        return None

    @abstractmethod
    def share(self, *tensors: Tensor) -> Shared:
        """Make tensors, which are on the CPU, available to all workers for as long as the handle exists."""

    @abstractmethod
    def map(self, work: Callable[[Item, str], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``work(item, device)`` of every item, in any order, each as soon as it is there.

        Args:
            work: a function of a module, so that it can be pickled by name; equal items give equal results.
            items: may be a generator: take an item only when it can be worked on soon, so that few are in memory.
        """


class LocalExecutor(Executor):
    """Decomposes one block after another in this process.

    ``conf/executor/local.yaml`` documents the options.
    """

    @validated
    def __init__(
        self,
        device: str = "auto",
        threads: Count | None = None,
        block: Count | None = None,
        memory: Positive | None = None,
    ) -> None:
        self.requested, self.block, self.memory, self._threads = device, block, memory, threads

    @cached_property
    def device(self) -> str:
        """The device; also sets the number of threads."""
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)
        return super().device

    def share(self, *tensors: Tensor) -> Shared:
        """Keep the tensors in this process."""
        return Kept(tensors)

    def map(self, work: Callable[[Item, str], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in order."""
        return (work(item, self.device) for item in items)


class Kept(Shared):
    """Tensors of this process."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors

    def on(self, device: str) -> tuple[Tensor, ...]:
        """Copy the tensors to the device the first time, and return them."""
        self._tensors = tuple(tensor.to(device) for tensor in self._tensors)  # copies only the first time
        return self._tensors


def usable_device(name: str) -> str:
    """Return the device's name, with ``auto`` resolved.

    Raises:
        HarnessError: if PyTorch cannot use it here.
    """
    import torch

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
