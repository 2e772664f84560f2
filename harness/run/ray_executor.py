"""Blocks of work as Ray tasks: on this machine, or on a cluster that runs already."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.run.executor import Executor, Item, Result, Shared, positive, usable_device

logger = logging.getLogger(__name__)
_REACH_SECONDS = 10


class RayExecutor(Executor):
    """Runs every block as a Ray task, and takes the results as they come.

    Workers need this package and its dependencies in their environment, but neither the model's files nor a file system
    shared with this process: a block travels with its vectors, the projection lies in Ray's object store, and results
    come back to be written here. A block whose worker dies is given to another one.

    Args:
        address: an existing cluster: ``HOST:PORT``, ``auto`` (the one this machine is part of) or ``ray://HOST:PORT``
            (needs ``ray[client]``); none starts one on this machine for the length of the run.
        num_cpus: CPUs that a task reserves.
        num_gpus: GPUs that a task reserves, 0.5 for two tasks on one; none takes one if the cluster has any.
        threads: CPU threads of a task; none means ``num_cpus``, at least 1.
        retries: how often a block is given to another worker when its worker dies.
        in_flight: blocks handed out at once; none means twice as many as the cluster can run.
        device: where this process computes what it does not hand out (activations); see LocalExecutor.
        block: weight vectors that are decomposed together; none for as many as keep the solver of one worker busy.
        memory: GiB that a block may use beside the projection; none: on a GPU 80 % of what is free, else 1.
    """

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        threads: int | None = None,
        retries: int = 3,
        in_flight: int | None = None,
        device: str = "auto",
        block: int | None = None,
        memory: float | None = None,
    ) -> None:
        self.device = usable_device(device)
        self.block = None if block is None else positive(block, "block")
        self.memory = None if memory is None else positive(memory, "memory")
        if num_cpus < 0 or (num_gpus or 0) < 0 or not (num_cpus or num_gpus):
            raise HarnessError("a Ray task needs a share of a CPU or of a GPU (executor.num_cpus, executor.num_gpus)")
        self._address, self._cpus, self._gpus, self._retries = address, num_cpus, num_gpus, retries
        self._threads = max(1, int(num_cpus)) if threads is None else positive(threads, "threads")
        self._in_flight = in_flight if in_flight is None else positive(in_flight, "in_flight")
        # Read when Ray is first imported: no usage statistics leave this machine, and nothing is said about it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise HarnessError("executor=ray needs Ray: pip install 'neuron-harness[ray]'") from error
        self._ray: Any = ray

    def __enter__(self) -> Self:
        """Start or join the cluster.

        Raises:
            HarnessError: if it cannot be reached, or could never run a task.
        """
        address = self._address or "local"
        _check_reachable(address)
        try:
            own: dict[str, Any] = {} if self._address else {"include_dashboard": False}
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ImportError) as error:
            raise HarnessError(
                f"the Ray cluster executor.address={address} cannot be reached ({' '.join(str(error).split())[:200]}); "
                "start it with `ray start --head`, or leave executor.address=null for one on this machine"
            ) from error
        try:
            self._fit_to_cluster()
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def _fit_to_cluster(self) -> None:
        has = self._ray.cluster_resources()
        if self._gpus is None:
            self._gpus = 1.0 if has.get("GPU", 0) else 0.0
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        slots = int(min(has.get(name, 0) / share for name, share in wanted.items() if share))
        if not slots and self._in_flight is None:
            raise HarnessError(
                f"a task asks for {self._cpus:g} CPUs and {self._gpus:g} GPUs, but the Ray cluster has "
                f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}: lower executor.num_cpus or executor.num_gpus, "
                "or set executor.in_flight if the cluster grows on demand"
            )
        self._in_flight = self._in_flight or 2 * slots
        logger.info("Ray: %d workers of %g CPUs and %g GPUs", slots, self._cpus, self._gpus)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the cluster, and stop it if it was started here; tasks that still run are cancelled with it."""
        self._ray.shutdown()

    def share(self, *tensors: Tensor) -> Shared:
        """Put the tensors into Ray's object store, once; workers on one machine map the same memory."""
        return _Stored(self._ray.put([tensor.numpy() for tensor in tensors]))

    def map(self, work: Callable[[Item, str], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results as they come.

        Raises:
            HarnessError: if a block's workers died again and again, or the cluster was lost.
        """
        # max_calls=0: Ray would end the process of a GPU task after every task, and the projection's copy with it.
        resources = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_retries": self._retries, "max_calls": 0}
        remote: Any = self._ray.remote(**resources)(_run)
        device = "cuda" if self._gpus else "cpu"
        waiting = iter(items)
        running = {remote.remote(work, item, device, self._threads) for item in islice(waiting, self._in_flight)}
        while running:
            (done, *_), _ = self._ray.wait(list(running), num_returns=1)
            running.remove(done)
            result: Result = self._result(done)
            del done  # and with it the result's place in the object store
            running |= {remote.remote(work, item, device, self._threads) for item in islice(waiting, 1)}
            yield result

    def _result(self, reference: Any) -> Any:
        lost = self._ray.exceptions.RayError
        try:
            return self._ray.get(reference)
        except lost as error:
            cause = getattr(error, "cause", None)
            if cause is not None and not isinstance(cause, lost):
                raise cause from None  # what the work raised, without Ray's account of it
            told = next(iter(str(cause or error).strip().splitlines()), type(error).__name__)
            raise HarnessError(
                f"Ray could not finish a block in {self._retries + 1} attempts ({told}); is a machine short of memory? "
                "Finished blocks are kept: run again to go on"
            ) from error


#: The shared tensors last used in this worker process: reference, device, tensors.
_copy: tuple[str, str, tuple[Tensor, ...]] | None = None


class _Stored(Shared):
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def on(self, device: str) -> tuple[Tensor, ...]:
        import ray

        global _copy
        key = (self._reference.hex(), device)
        if _copy is None or _copy[:2] != key:
            _copy = None  # frees the last ones before the next take their place
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*not writable")  # nobody writes: see Shared.on
                _copy = (*key, tuple(torch.from_numpy(array).to(device) for array in ray.get(self._reference)))
        return _copy[2]


def _run(work: Callable[[Any, str], Any], item: Any, device: str, threads: int) -> Any:
    """Do one task in a worker process."""
    torch.set_num_threads(threads)
    return work(item, device)


def _check_reachable(address: str) -> None:
    """Try the address's port first: Ray itself would try for minutes, and then end the process.

    Raises:
        HarnessError: if nobody answers there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise HarnessError(
            f"the Ray cluster executor.address={address} cannot be reached ({error}); start it with "
            "`ray start --head --port=6379` there, or leave executor.address=null for one on this machine"
        ) from error
