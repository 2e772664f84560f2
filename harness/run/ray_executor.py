"""Blocks of work as Ray tasks, on this machine or on an existing cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.errors import HarnessError
from harness.run.executor import Executor, Item, Result, Shared
from harness.validation import Count, NonNegative, Positive, validated

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
_REACH_SECONDS = 10
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
#: Attempts to start Ray on this machine. Ray gives its processes 30 s, too little if the machine is busy.
_STARTS = 4


class RayExecutor(Executor):
    """Runs every call of the solver, and every shard of the corpus, as a Ray task.

    Workers need this package and its dependencies in their environment. A task contains its vectors or windows, the
    projection is in Ray's object store, and this process writes the results, so that workers need no file system
    shared with it. To read the corpus they need the subject's files, under the same path or as ``subject.sources``
    names them. Ray runs a task again if its worker dies.

    ``conf/executor/ray.yaml`` documents the options.
    """

    reads_corpus = True

    @validated
    def __init__(
        self,
        address: str | None = None,
        num_cpus: NonNegative = 1,
        num_gpus: NonNegative | None = None,
        in_flight: Count | None = None,
        device: str = "auto",
        block: Count | None = None,
        memory: Positive | None = None,
    ) -> None:
        self.requested, self.block, self.memory = device, block, memory
        if not (num_cpus or num_gpus):
            raise HarnessError("a Ray task needs a share of a CPU or of a GPU (executor.num_cpus, executor.num_gpus)")
        self._address, self._cpus, self._gpus, self._in_flight = address, num_cpus, num_gpus, in_flight
        if importlib.util.find_spec("ray") is None:
            raise HarnessError("executor=ray needs Ray: pip install 'neuron-harness[ray]'")
        # Ray reads these when it is first imported: no usage statistics, no warning about CUDA_VISIBLE_DEVICES, and
        # seconds that a busy machine may take to start Ray's server.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")

    @cached_property
    def _ray(self) -> Any:
        import ray  # takes seconds

        return ray

    def __enter__(self) -> Self:
        """Start or join the cluster.

        Raises:
            HarnessError: if it cannot be started or reached, or has too few resources for a task.
        """
        if self._address is None:
            self._start()
        else:
            self._join(self._address)
        try:
            self._fit_to_cluster()
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def _start(self) -> None:
        for attempt in range(1, _STARTS + 1):
            try:
                self._ray.init(address="local", include_dashboard=False, **_QUIET)
                return
            except Exception as error:  # Ray raises Exception itself if its processes do not start in time
                self._ray.shutdown()
                _end_processes(error)
                reason = _reason(error)
                if attempt == _STARTS:
                    raise HarnessError(
                        f"Ray did not start on this machine in {_STARTS} attempts ({reason}): its logs are in "
                        "/tmp/ray/session_latest/logs; use executor=local, or executor.address for a running cluster"
                    ) from error
                logger.warning("Ray did not start (%s): attempt %d of %d", reason, attempt + 1, _STARTS)

    def _join(self, address: str) -> None:
        _check_reachable(address)
        try:
            self._ray.init(address=address, **_QUIET)
        except Exception as error:  # Ray raises many classes, also Exception itself
            raise HarnessError(
                f"the Ray cluster executor.address={address} cannot be reached ({_reason(error)}); start it with "
                "`ray start --head`, or leave executor.address=null for one on this machine"
            ) from error

    def _fit_to_cluster(self) -> None:
        available = self._ray.cluster_resources()
        if self._gpus is None:
            self._gpus = 1.0 if available.get("GPU", 0) else 0.0
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        slots = int(min(available.get(name, 0) / share for name, share in wanted.items() if share))
        if not slots and self._in_flight is None:
            raise HarnessError(
                f"a task needs {self._cpus:g} CPUs and {self._gpus:g} GPUs, but the Ray cluster has "
                f"{available.get('CPU', 0):g} and {available.get('GPU', 0):g}: lower executor.num_cpus or "
                "executor.num_gpus, or set executor.in_flight if the cluster grows on demand"
            )
        # A cluster that grows on demand may have no workers yet.
        self.workers = max(1, slots, self._in_flight or 0)
        self._in_flight = self._in_flight or 2 * slots
        logger.info("Ray: %d workers of %g CPUs and %g GPUs", slots, self._cpus, self._gpus)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Cancel running tasks, leave the cluster, and stop it if this run started it."""
        self._ray.shutdown()

    def share(self, *tensors: Tensor) -> Shared:
        """Put the tensors into Ray's object store; workers on one machine share the memory."""
        return _Stored(self._ray.put([tensor.numpy() for tensor in tensors]))

    def map(self, work: Callable[[Item, str], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order in which they are finished.

        Raises:
            HarnessError: if a block's workers died more often than Ray retries it, or the cluster was lost.
        """
        # max_calls=0: otherwise Ray ends the process after each GPU task, and its copy of the projection is lost.
        remote: Any = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_calls=0)(_run)
        device, threads = "cuda" if self._gpus else "cpu", max(1, int(self._cpus))
        waiting = iter(items)
        running = {remote.remote(work, item, device, threads) for item in islice(waiting, self._in_flight)}
        while running:
            (done, *_), _ = self._ray.wait(list(running), num_returns=1)
            running.remove(done)
            result: Result = self._result(done)
            del done  # frees the result in the object store
            running |= {remote.remote(work, item, device, threads) for item in islice(waiting, 1)}
            yield result

    def _result(self, reference: Any) -> Any:
        lost = self._ray.exceptions.RayError
        try:
            return self._ray.get(reference)
        except lost as error:
            cause = getattr(error, "cause", None)
            if cause is not None and not isinstance(cause, lost):
                raise cause from None  # the exception of the work, without Ray's traceback
            reason = next(iter(str(cause or error).strip().splitlines()), type(error).__name__)
            raise HarnessError(
                f"Ray could not finish a block ({reason}), maybe for lack of memory. Finished blocks are stored: start "
                "the run again to continue, with RAY_TASK_MAX_RETRIES in the environment for more attempts (default 3)"
            ) from error


#: The shared tensors that this worker process used last: reference, device, tensors.
_copy: tuple[str, str, tuple[Tensor, ...]] | None = None


class _Stored(Shared):
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def on(self, device: str) -> tuple[Tensor, ...]:
        import ray
        import torch

        global _copy
        key = (self._reference.hex(), device)
        if _copy is None or _copy[:2] != key:
            _copy = None  # frees the old tensors before the new ones are loaded
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*not writable")  # the tensors are read-only: see Shared.on
                _copy = (*key, tuple(torch.from_numpy(array).to(device) for array in ray.get(self._reference)))
        return _copy[2]


def _run(work: Callable[[Any, str], Any], item: Any, device: str, threads: int) -> Any:
    """Run one task in a worker process."""
    import torch

    torch.set_num_threads(threads)
    return work(item, device)


def _end_processes(error: Exception) -> None:
    """End the processes of a Ray node that did not start, which ``ray.shutdown`` leaves running until this one ends.

    Only the traceback has the node that started them.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node: Any = frame.f_locals.get("self")
        if hasattr(node, "kill_all_processes"):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_reachable(address: str) -> None:
    """Try the address's port, because Ray would try for minutes and then end the process."""
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
