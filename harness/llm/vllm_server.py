"""A vLLM server that the harness starts, watches and stops by itself."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import openai
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.errors import HarnessError
from harness.llm import process_guard
from harness.llm.client import Backend, LLMClient, Price, Sampling
from harness.llm.openai_compatible import OpenAIClient, Server, check_common, connected, timeout

logger = logging.getLogger(__name__)

POLL_S = 0.5
GRACE_S = 10.0  # from SIGTERM to SIGKILL
TAIL_LINES = 15  # of the log, in the error of a server that did not start
# Of a weights file in its fingerprint: gigabytes need not be read to tell two apart, and so many blocks, evenly spread,
# meet every large matrix, whichever of them an adapter was merged into.
SAMPLES, SAMPLE_BYTES = 256, 1 << 13
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}

# Options that vLLM takes and the harness must set itself, each with what to write instead.
OURS = {
    "model": "llm.ROLE.model",
    "revision": "llm.ROLE.revision",
    "host": "nothing: the server listens to this machine alone",
    "port": "nothing: a free port is found at each start",
    "served-model-name": "nothing: the name follows from the model",
    "api-key": "nothing: a key is made at each start",
    "hf-token": "the environment variable HF_TOKEN, so that the token gets into no config",
}

# Options whose product is the number of GPUs that a server takes.
PARALLELISM = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")

# Options that are no part of the model's identity, because no answer depends on them beyond the rounding of floating
# point; with any of them changed, answers still come from the cache. Every option that is not listed here belongs to
# the identity: an answer asked twice costs less than a wrong one.
WITHOUT_EFFECT = {
    # How the work is spread over devices.
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "data-parallel-size-local",
    "enable-expert-parallel",
    "distributed-executor-backend",
    "disable-custom-all-reduce",
    "max-parallel-loading-workers",
    # How much memory it takes.
    "gpu-memory-utilization",
    "kv-cache-memory-bytes",
    "num-gpu-blocks-override",
    "cpu-offload-gb",
    "swap-space",
    "block-size",
    # How requests are batched and what is kept between them.
    "max-num-seqs",
    "max-num-batched-tokens",
    "enable-chunked-prefill",
    "enable-prefix-caching",
    "scheduling-policy",
    "async-scheduling",
    # How it is compiled.
    "enforce-eager",
    "compilation-config",
    # What it accepts: a request beyond either limit fails, and no failure is cached.
    "max-model-len",
    "max-logprobs",
    # Where files come from, and how they are read.
    "download-dir",
    "safetensors-load-strategy",
    "use-tqdm-on-load",
    # What it says of itself.
    "disable-log-stats",
    "disable-log-requests",
    "enable-log-requests",
    "max-log-len",
    "uvicorn-log-level",
    "disable-uvicorn-access-log",
}


class ManagedVLLM(Backend):
    """A vLLM server of the run's own, started when a role is first asked and stopped at the end.

    Args:
        model: a model's name on the Hugging Face hub, or a local folder.
        revision: branch, tag or commit of a model on the hub; give a commit to make a run repeatable.
        sampling: default sampling of the role.
        concurrency: most requests under way at once, over all its servers; how many there are follows from how they
            keep up.
        timeout_s: longest wait for one answer, in seconds, time in the server's queue included.
        retries: how often a request is tried again after a failure that may pass.
        startup_timeout_s: longest wait for the server to be ready, in seconds, downloads included.
        python: the interpreter that has vLLM; none means the harness's own.
        options: the server's options by name, as in ``vllm serve --help``, without dashes in front: true makes a bare
            ``--name``, false ``--no-name``, a mapping or list is passed as JSON, none leaves the option out.
        env: further environment variables of the server.
        servers: how many servers of the model are started, each on GPUs of its own, or the further environment of
            each. A number deals out the GPUs that are visible, as many to each as its parallelism takes; where there
            are none, nothing is dealt out.
        price: what tokens cost, for the accounts.
    """

    def __init__(
        self,
        model: str | None,
        revision: str | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        concurrency: int = 64,
        timeout_s: float = 600,
        retries: int = 5,
        startup_timeout_s: float = 900,
        python: str | None = None,
        options: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        servers: int | Sequence[Mapping[str, Any]] = 1,
        price: Price | Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.revision = model or "", revision
        self.sampling = Sampling.of(sampling)
        self.concurrency = concurrency
        self.timeout_s, self.retries, self.startup_timeout_s = timeout_s, retries, startup_timeout_s
        self.python = python or sys.executable
        self.options = {name.replace("_", "-"): value for name, value in (options or {}).items()}
        self.env = {name: str(value) for name, value in (env or {}).items()}
        self.servers, self.price = servers, Price.of(price)

    def __str__(self) -> str:
        """Return the model, and that the harness serves it."""
        return f"{self.model} on vLLM" + (f", {self._count} servers" if self._count > 1 else "")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, and the options on which answers depend; local files count by content, not by path."""
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Any]:
        options = {name: _content(value) for name, value in self.options.items() if name not in WITHOUT_EFFECT}
        return {"model": _content(self.model), "revision": self.revision, "options": options}

    @property
    def server(self) -> object:
        """The command and its environment, and how many there are: what is started together."""
        return (self.python, *self._arguments(), *sorted(self.env.items()), repr(self.servers))

    def check(self) -> None:
        """Check what can be checked without starting the server.

        Raises:
            HarnessError: if the model is missing, vLLM is not installed, or an option is one the harness sets.
        """
        check_common(self)
        for name, instead in OURS.items():
            if name in self.options:
                raise HarnessError(f"vLLM's option {name} is the harness's to set; use {instead}")
        if _looks_local(self.model) and not Path(self.model).expanduser().exists():
            raise HarnessError(f"the model folder {self.model} does not exist; give a folder, or a name on the hub")
        if not _has_vllm(self.python):
            raise HarnessError(
                f"vLLM is not installed for {self.python}: pip install 'neuron-harness[vllm]', or set llm.ROLE.python "
                "to an interpreter that has it, or use llm@llm.ROLE=openai with the base_url of a server that runs"
            )

        self._environments()

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Start all servers at once, each logging into the folder ``logs``, yield a client, and stop them at the end.

        Raises:
            HarnessError: if a server does not start; the message ends with the last lines of its log.
        """
        self.check()
        logs.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.TaskGroup() as group:
                    starting = [
                        group.create_task(stack.enter_async_context(self._open_one(logs, number, env)))
                        for number, env in enumerate(self._environments(), start=1)
                    ]
            except BaseExceptionGroup as errors:
                mistakes, others = errors.split(HarnessError)
                if mistakes is None or others is not None:
                    raise
                raise mistakes.exceptions[0] from None
            servers = [task.result() for task in starting]
            yield OpenAIClient(servers, self._name, sampling=self.sampling, retries=self.retries)

    @asynccontextmanager
    async def _open_one(self, logs: Path, number: int, env: Mapping[str, str]) -> AsyncIterator[Server]:
        log = logs / f"vllm-{self._name}{'' if number == 1 else f'-{number}'}.log"
        port, key = _free_port(), secrets.token_hex(16)
        with log.open("ab") as sink:
            start = sink.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", process_guard.__file__, str(GRACE_S), *self._command(port)],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**self._environment(), **env, "VLLM_API_KEY": key},
                start_new_session=True,  # Ctrl-C is the harness's to handle; it stops the server in its own time
            )

        def epitaph() -> str:
            if process.poll() is None:
                return ""
            return f"the vLLM server of {self.model} is dead (exit status {process.returncode}): see {log}"

        try:
            async with openai.AsyncOpenAI(
                # The key also proves that what answers at the port is this server, not a stranger's.
                api_key=key,
                base_url=f"http://127.0.0.1:{port}/v1",
                timeout=timeout(self.timeout_s),
                max_retries=0,
                # A proxy that the environment names knows nothing of this machine's own address.
                http_client=connected(self.concurrency, trust_env=False),
            ) as api:
                await self._ready(process, api, log, start)
                yield Server(api, f"the vLLM server that logs into {log.name}", self.concurrency, epitaph)
        finally:
            await _stop(process)

    @property
    def _count(self) -> int:
        return self.servers if isinstance(self.servers, int) else len(self.servers)

    def _environments(self) -> list[dict[str, str]]:
        """Return what is particular to each server's environment.

        Raises:
            HarnessError: if there are too few GPUs for so many servers.
        """
        if self._count < 1:
            raise HarnessError(f"servers is {self.servers}; it must be at least 1, or a list of environments")
        if not isinstance(self.servers, int):
            return [{name: str(value) for name, value in env.items()} for env in self.servers]
        gpus = _visible_gpus(self.env) if self.servers > 1 else []
        if not gpus:
            return [{}] * self.servers
        each = math.prod(int(self.options.get(option) or 1) for option in PARALLELISM)
        if len(gpus) < each * self.servers:
            raise HarnessError(
                f"{self.servers} servers of {each} GPU(s) each need {each * self.servers}, and {len(gpus)} are "
                "visible: lower llm.ROLE.servers, or list the environment of each"
            )
        starts = range(0, each * self.servers, each)
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[start : start + each])} for start in starts]

    @property
    def _name(self) -> str:
        return re.sub(r"[^\w.-]", "_", Path(self.model).expanduser().resolve().name) or "model"

    def _arguments(self) -> list[str]:
        model = Path(self.model).expanduser()
        arguments = ["--model", str(model.resolve()) if model.exists() else self.model]
        if self.revision is not None:
            arguments += ["--revision", self.revision]
        for name, value in sorted(self.options.items()):
            if isinstance(value, bool):
                arguments.append(f"--{name}" if value else f"--no-{name}")
            elif isinstance(value, Mapping | list | tuple):
                arguments += [f"--{name}", json.dumps(value)]
            elif value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments

    def _command(self, port: int) -> list[str]:
        # The module, not ``vllm serve``: that command fails in builds whose distribution is not named "vllm".
        return [
            *(self.python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", self._name),
            *self._arguments(),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            "VLLM_NO_USAGE_STATS": "1",  # nothing about a run leaves the machine unless the user says so
            **os.environ,
            "PYTHONSAFEPATH": "1",  # a folder called "datasets" where the harness is run must not hide the package
            **self.env,
        }

    async def _ready(self, process: subprocess.Popen[bytes], api: openai.AsyncOpenAI, log: Path, start: int) -> None:
        began = time.monotonic()
        logger.info("starting vLLM for %s; its log is %s", self.model, log)
        with _spinner(f"vLLM loads {self.model}"):
            while not await _answers(api):
                if process.poll() is not None:
                    cause = _cause(log, start) or f"exit status {process.returncode}"
                    raise HarnessError(f"the vLLM server of {self.model} did not start: {cause}{_tail(log, start)}")
                if time.monotonic() - began > self.startup_timeout_s:
                    raise HarnessError(
                        f"the vLLM server of {self.model} was not ready after {self.startup_timeout_s:g} s; "
                        f"raise llm.ROLE.startup_timeout_s if it was still loading{_tail(log, start)}"
                    )
                await asyncio.sleep(POLL_S)
        logger.info("vLLM is ready for %s after %.0f s", self.model, time.monotonic() - began)


async def _answers(api: openai.AsyncOpenAI) -> bool:
    try:
        await api.models.list(timeout=5)
    except openai.OpenAIError:
        return False
    return True


async def _stop(process: subprocess.Popen[bytes]) -> None:
    # Closing the leash is all it takes, and happens at once; what follows only waits for it to take effect. So a
    # second cancellation, which ends the wait, leaves no server behind either.
    assert process.stdin is not None
    process.stdin.close()
    deadline = time.monotonic() + GRACE_S + process_guard.KILL_WAIT_S + 5
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
        await asyncio.sleep(0.05)


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(text, total=None)
        yield


def _visible_gpus(env: Mapping[str, str]) -> list[str]:
    """Return the GPUs that servers with this environment would see, by the names that CUDA knows them by."""
    named = env.get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES"))
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch  # takes a second, which only several servers need

    return [str(number) for number in range(torch.cuda.device_count())]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _has_vllm(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("vllm") is not None
    question = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        return subprocess.run([python, "-c", question], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _looks_local(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def _lines(log: Path, start: int) -> list[str]:
    """Return the log's lines from byte ``start`` on, without colours, process names and time stamps."""
    text = log.read_bytes()[start:].decode("utf-8", "replace")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [re.sub(r"^\((?:\w+) pid=\d+\) ", "", line).rstrip() for line in text.splitlines() if line.strip()]


def _tail(log: Path, start: int) -> str:
    return "".join([f"\nThe last lines of {log}:", *(f"\n  {line}" for line in _lines(log, start)[-TAIL_LINES:])])


def _cause(log: Path, start: int) -> str:
    """Return the log's first exception: those after it are what it led to."""
    lines = [re.sub(r"^[A-Z]+ \d\d-\d\d [\d:]+ \[[^]]*\] ?", "", line) for line in _lines(log, start)]
    for number, line in enumerate(lines):
        if re.match(r"([\w.]*(Error|Exception)\b: .|\S+: error: )", line):
            detail = lines[number + 1].strip() if "validation error" in line and number + 1 < len(lines) else line
            return detail[:300]
    return ""


def _content(value: Any) -> Any:
    """Return ``value``, or if it is the path of a local file or folder, a fingerprint of what is in it."""
    if not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    try:
        if path.is_file():
            return {"content": _fingerprint([path])}
        if path.is_dir():
            kept = (item for item in path.iterdir() if item.is_file() and not _is_prose(item))
            return {"content": _fingerprint(sorted(kept))}
    except OSError:  # a text too long for a path is none
        pass
    return value


def _is_prose(file: Path) -> bool:
    return file.name.startswith(".") or file.suffix == ".md"


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as content:
            if file.suffix not in WEIGHTS or size <= SAMPLES * SAMPLE_BYTES:
                digest.update(content.read())
                continue
            for place in range(SAMPLES):
                content.seek((size - SAMPLE_BYTES) * place // (SAMPLES - 1))
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()
