"""A vLLM server that the harness starts and stops."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import openai
import pydantic.dataclasses
from pydantic import AfterValidator, BeforeValidator, Field
from rich.console import Console

from harness.errors import HarnessError
from harness.llm import process_guard
from harness.llm.client import LLMClient
from harness.llm.openai_compatible import Endpoint, OpenAIClient
from harness.validation import STRICT, Positive

logger = logging.getLogger(__name__)

POLL_S = 0.5
GRACE_S = 10.0  # from SIGTERM to SIGKILL
TAIL_LINES = 15  # of the log, in the error of a server that did not start
# The fingerprint of a weights file reads this many blocks of this many bytes, evenly spread: enough to meet every large
# matrix, whichever of them an adapter was merged into, without reading gigabytes.
SAMPLES, SAMPLE_BYTES = 256, 1 << 13
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}

# vLLM's options that the harness must set itself, each with what to write instead.
RESERVED = {
    "model": "llm.ROLE.model",
    "revision": "llm.ROLE.revision",
    "host": "nothing: the server listens on this machine only",
    "port": "nothing: a free port is found at each start",
    "served-model-name": "nothing: the name follows from the model",
    "api-key": "nothing: a key is made at each start",
    "hf-token": "the environment variable HF_TOKEN, so that no config holds the token",
}

# Options that are not part of the model's identity, because they change answers by floating-point rounding at most: if
# one of them changes, answers still come from the cache. Every option not listed here is part of the identity: asking
# twice costs less than a wrong answer.
_WITHOUT_EFFECT = """
parallelism: tensor-parallel-size pipeline-parallel-size data-parallel-size data-parallel-size-local
             enable-expert-parallel distributed-executor-backend disable-custom-all-reduce max-parallel-loading-workers
memory:      gpu-memory-utilization kv-cache-memory-bytes num-gpu-blocks-override cpu-offload-gb swap-space block-size
batching:    max-num-seqs max-num-batched-tokens enable-chunked-prefill enable-prefix-caching scheduling-policy
             async-scheduling
compilation: enforce-eager compilation-config
limits (a request beyond either fails, and failures are not cached): max-model-len max-logprobs
files:       download-dir safetensors-load-strategy use-tqdm-on-load
logging:     disable-log-stats disable-log-requests enable-log-requests max-log-len uvicorn-log-level
             disable-uvicorn-access-log
"""
WITHOUT_EFFECT = set(re.findall(r"[a-z]+(?:-[a-z]+)+", _WITHOUT_EFFECT))


def _dashed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in options.items()}


@pydantic.dataclasses.dataclass(config=STRICT, eq=False)
class ManagedVLLM(Endpoint):
    """A vLLM server of the run, started at the first request of a role and stopped at the end.

    ``conf/llm/vllm.yaml`` explains the options.

    Raises:
        pydantic.ValidationError: if an option is unknown or its value is out of range.
    """

    timeout_s: Positive = Field(default=600, kw_only=True)
    startup_timeout_s: Positive = 900
    python: str | None = None
    options: Annotated[dict[str, Any], AfterValidator(_dashed)] = Field(default_factory=dict)
    env: dict[str, Annotated[str, BeforeValidator(str)]] = Field(default_factory=dict)
    cache: str = ".cache/models"

    def __str__(self) -> str:
        """Return the model, and that vLLM serves it."""
        return f"{self.model} on vLLM"

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Model, revision, and the options that change answers; local files count by content, not by path."""
        options = {name: _content(value) for name, value in self.options.items() if name not in WITHOUT_EFFECT}
        return {"model": _content(self._source), "revision": self.revision, "options": options}

    @property
    def server(self) -> object:
        """The command and its environment."""
        return (self._python, *self._arguments(), *sorted(self.env.items()))

    def check(self) -> None:
        """Check everything that can be checked without starting the server.

        Raises:
            HarnessError: if the model is missing, vLLM is not installed, or an option is one the harness sets.
        """
        super().check()
        for name, instead in RESERVED.items():
            if name in self.options:
                raise HarnessError(f"the harness sets vLLM's option {name} itself; use {instead}")
        local = self._source.startswith((".", "/", "~")) or self._source.count("/") > 1
        if local and not Path(self._source).expanduser().exists():
            raise HarnessError(f"the model folder {self._source} does not exist; give a folder, or a name on the hub")
        if not _has_vllm(self._python):
            raise HarnessError(
                f"vLLM is not installed for {self._python}: pip install 'neuron-harness[vllm]', or set llm.ROLE.python "
                "to an interpreter that has it, or use llm@llm.ROLE=openai with the base_url of a running server"
            )

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Start the server, which logs into the folder ``logs``, yield a client, and stop the server at the end.

        Raises:
            HarnessError: if the server does not start; the message ends with the last lines of its log.
        """
        self.check()
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"vllm-{self._name}.log"
        port, key = _free_port(), secrets.token_hex(16)
        with log.open("ab") as sink:
            start = sink.tell()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", process_guard.__file__, str(GRACE_S)),
                    # The module, not ``vllm serve``: that fails in builds whose distribution is not named "vllm".
                    *(self._python, "-m", "vllm.entrypoints.openai.api_server"),
                    *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", self._name),
                    *self._arguments(),
                ],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={
                    "VLLM_NO_USAGE_STATS": "1",  # the run sends no statistics unless the user asks for it
                    **os.environ,
                    "PYTHONSAFEPATH": "1",  # a folder called "datasets" in the working folder must not hide the package
                    **self.env,
                    "VLLM_API_KEY": key,
                },
                start_new_session=True,  # the harness handles Ctrl-C and stops the server itself
            )

        def death() -> str:
            if process.poll() is None:
                return ""
            return f"the vLLM server of {self.model} is dead (exit status {process.returncode}): see {log}"

        try:
            # The key also proves that this server answers at the port, and not another program. A proxy cannot reach
            # this machine's own address.
            url = f"http://127.0.0.1:{port}/v1"
            client = OpenAIClient(self, self._name, url, key, death=death, trust_env=False)
            async with client.api:
                await self._ready(process, client.api, log, start)
                yield client
        finally:
            await _stop(process)

    @property
    def _python(self) -> str:
        return self.python or sys.executable

    @cached_property
    def _source(self) -> str:
        """The model as vLLM takes it; a GGUF file in an installed package is converted at first use."""
        if not self.model.startswith("package:"):
            return self.model
        from harness.subject.files import locate  # imported here because torch takes seconds
        from harness.subject.gguf import converted

        files = locate([self.model])
        return str(converted(files.gguf, Path(self.cache), None)) if files.gguf else files.reference

    @property
    def _name(self) -> str:
        return re.sub(r"[^\w.-]", "_", Path(self._source).expanduser().resolve().name) or "model"

    def _arguments(self) -> list[str]:
        model = Path(self._source).expanduser()
        arguments = ["--model", str(model.resolve()) if model.exists() else self._source]
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

    async def _ready(self, process: subprocess.Popen[bytes], api: openai.AsyncOpenAI, log: Path, start: int) -> None:
        began = time.monotonic()
        logger.info("starting vLLM for %s; its log is %s", self.model, log)
        with Console(stderr=True).status(f"vLLM loads {self.model}"):
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
        await api.with_options(max_retries=0).models.list(timeout=5)
    except openai.OpenAIError:
        return False
    return True


async def _stop(process: subprocess.Popen[bytes]) -> None:
    # Closing the pipe makes the process guard stop the server; the rest only waits. So even a second cancellation,
    # which ends the wait, leaves no server behind.
    assert process.stdin is not None
    process.stdin.close()
    deadline = time.monotonic() + GRACE_S + process_guard.KILL_WAIT_S + 5
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
        await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _has_vllm(python: str) -> bool:
    if python == sys.executable:
        return importlib.util.find_spec("vllm") is not None
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _lines(log: Path, start: int) -> list[str]:
    """Return the log's lines from byte ``start`` on, without colours and process names."""
    text = log.read_bytes()[start:].decode("utf-8", "replace")
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [re.sub(r"^\((?:\w+) pid=\d+\) ", "", line).rstrip() for line in text.splitlines() if line.strip()]


def _tail(log: Path, start: int) -> str:
    return "".join([f"\nThe last lines of {log}:", *(f"\n  {line}" for line in _lines(log, start)[-TAIL_LINES:])])


def _cause(log: Path, start: int) -> str:
    """Return the log's first exception, which causes the later ones, or an empty text."""
    lines = [re.sub(r"^[A-Z]+ \d\d-\d\d [\d:]+ \[[^]]*\] ?", "", line) for line in _lines(log, start)]
    for number, line in enumerate(lines):
        if re.match(r"([\w.]*(Error|Exception)\b: .|\S+: error: )", line):
            detail = lines[number + 1].strip() if "validation error" in line and number + 1 < len(lines) else line
            return detail[:300]
    return ""


def _content(value: Any) -> Any:
    """Return ``value``, or a fingerprint of the content if it is the path of a local file or folder."""
    if not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    try:
        if path.is_file():
            return {"content": _fingerprint([path])}
        if path.is_dir():
            files = sorted(item for item in path.iterdir() if item.is_file())
            return {"content": _fingerprint([one for one in files if one.name[0] != "." and one.suffix != ".md"])}
    except OSError:  # the text is too long for a path
        pass
    return value


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as content:
            if file.suffix not in WEIGHTS or size <= SAMPLES * SAMPLE_BYTES:
                digest.update(content.read())
                continue
            for block in range(SAMPLES):
                content.seek((size - SAMPLE_BYTES) * block // (SAMPLES - 1))
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()
