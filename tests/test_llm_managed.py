"""The managed vLLM server's config and process, with a stand-in for vLLM (the real one: test_llm_vllm.py)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.endpoint import HELLO, MORTAL, impostor, start

from harness.errors import HarnessError
from harness.llm import process_guard
from harness.llm.client import Completion
from harness.llm.vllm_server import ManagedVLLM
from harness.records import Status


def test_equal_settings_share_a_server(tmp_path: Path) -> None:
    base = ManagedVLLM("m", options={"dtype": "float32", "max_num_seqs": 8})
    same = ManagedVLLM("m", options={"max-num-seqs": 8, "dtype": "float32"}, concurrency=1, sampling={"seed": 2})
    assert base.server == same.server
    assert hash(base.server)
    for other in (
        ManagedVLLM("m2", options=base.options),
        ManagedVLLM("m", options={**base.options, "max-num-seqs": 9}),
        ManagedVLLM("m", options=base.options, env={"A": 1}),
        ManagedVLLM("m", options=base.options, revision="x"),
        ManagedVLLM("m", options=base.options, python="/bin/python"),
    ):
        assert base.server != other.server


def test_the_identity_contains_the_options_that_change_answers() -> None:
    base = ManagedVLLM("m", options={"dtype": "float32"})
    harmless = {"dtype": "float32", "tensor-parallel-size": 2, "gpu_memory_utilization": 0.5, "max-model-len": 1}
    assert ManagedVLLM("m", options=harmless, env={"A": 1}, timeout_s=1).identity == base.identity
    for other in (
        ManagedVLLM("m2", options=base.options),
        ManagedVLLM("m", revision="x", options=base.options),
        ManagedVLLM("m", options={"dtype": "bfloat16"}),
        ManagedVLLM("m", options={**base.options, "an-option-of-tomorrow": 1}),
    ):
        assert other.identity != base.identity
    json.dumps(base.identity)


def test_a_local_model_is_identified_by_its_content(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, content in {"config.json": b"{}", "model.safetensors": b"\0" * 3_000_000, **files}.items():
            (tmp_path / name / file).write_bytes(content)
        return str(tmp_path / name)

    base = ManagedVLLM(folder("one")).identity
    assert ManagedVLLM(folder("two", **{"README.md": b"changed"})).identity == base
    assert "one" not in json.dumps(base)
    tail = b"\0" * 2_999_999
    for number, changed in enumerate(
        [
            {"config.json": b"{ }"},
            {"tokenizer.json": b"{}"},
            {"model.safetensors": tail},
            {"model.safetensors": b"\1" + tail},
            {"model.safetensors": tail + b"\1"},
            {"model.safetensors": b"\0" * 1_490_000 + b"\1" * 20_000 + b"\0" * 1_490_000},  # a matrix in the middle
        ]
    ):
        assert ManagedVLLM(folder(f"changed-{number}", **changed)).identity != base, changed
    template = tmp_path / "template.jinja"
    template.write_text("one")
    before = ManagedVLLM("m", options={"chat-template": str(template)}).identity
    template.write_text("two")
    assert ManagedVLLM("m", options={"chat-template": str(template)}).identity != before


def test_options_become_arguments() -> None:
    options = {"enforce_eager": True, "enable-prefix-caching": False, "x": None, "seed": 3, "rope": {"a": [1]}}
    assert ManagedVLLM("m", revision="r", options=options)._arguments() == [
        *("--model", "m", "--revision", "r", "--no-enable-prefix-caching", "--enforce-eager"),
        *("--rope", '{"a": [1]}', "--seed", "3"),
    ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"model": None}, "llm.ROLE.model"),
        ({"model": "/no/such/folder"}, "does not exist"),
        ({"model": "m", "python": "/no/such/python"}, r"pip install 'neuron-harness\[vllm\]'"),
        ({"model": "m", "python": "/bin/false"}, r"pip install 'neuron-harness\[vllm\]'"),
        ({"model": "m", "options": {"port": 1}}, "port"),
        ({"model": "m", "options": {"api_key": "sk"}}, "api-key"),
        ({"model": "m", "options": {"hf-token": "hf_x"}}, "HF_TOKEN"),
    ],
)
def test_a_misconfigured_server_is_refused_before_the_run(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(HarnessError, match=word) as error:
        ManagedVLLM(**arguments).check()
    assert "\n" not in str(error.value)


def test_a_server_that_dies_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as error:
        asyncio.run(start(impostor(tmp_path, "sys.exit(3)"), tmp_path / "logs"))
    first, *rest = str(error.value).splitlines()
    assert first == "the vLLM server of m did not start: ValueError: the weights are missing"
    assert str(tmp_path / "logs" / "vllm-m.log") in rest[0]
    assert rest[1:] == [f"  line {number}" for number in range(15, 30)]


def test_a_server_that_is_never_ready(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(HarnessError, match=r"not ready after 3 s; raise llm.ROLE.startup_timeout_s"):
        asyncio.run(start(impostor(tmp_path, "sys.stdout.flush(); import time; time.sleep(600)"), tmp_path / "logs"))
    assert time.monotonic() - began < 10


def test_a_server_that_dies_in_the_middle(tmp_path: Path) -> None:
    async def run() -> tuple[Completion, Completion, float]:
        async with impostor(tmp_path, MORTAL.format()).open(tmp_path / "logs") as client:
            first = await client.generate(HELLO)
            began = time.monotonic()
            return first, await client.generate(HELLO), time.monotonic() - began

    first, second, seconds = asyncio.run(run())
    for completion in (first, second):
        assert completion.status is Status.FAILED
        assert f"is dead (exit status 7): see {tmp_path / 'logs' / 'vllm-m.log'}" in completion.detail
    assert seconds < 1  # a dead server gets no retries


def test_a_run_that_is_cancelled_leaves_no_server(tmp_path: Path) -> None:
    async def run() -> list[int]:
        backend, before = impostor(tmp_path, "import time; time.sleep(600)"), tiny_models.guarded()
        task = asyncio.create_task(start(backend, tmp_path / "logs"))
        while not (sessions := tiny_models.guarded() - before):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # A process that was just started may take a moment to end.
        until = time.monotonic() + 10
        while tiny_models.survivors(sessions) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return tiny_models.survivors(sessions)

    assert asyncio.run(run()) == []


# --- the process guard ------------------------------------------------------------------------------------------------


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600 if len(sys.argv) == 3 or os.environ.get("STAY") else 0.2)
"""


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", ["pipe", "harness killed", "guard terminated", "server died"])
def test_the_process_guard_leaves_no_process(tmp_path: Path, end: str) -> None:
    script, process_ids = tmp_path / "stubborn.py", tmp_path / "processes"
    script.write_text(STUBBORN)
    command = [sys.executable, "-I", "-S", process_guard.__file__, "0.3", sys.executable, str(script), str(process_ids)]
    # Stands in for the harness, to be killed: it holds the pipe and prints the guard's process id.
    harness = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
            "print(guard.pid, flush=True)\n"
            "sys.stdin.read()\nguard.stdin.close()\nguard.wait()\n",
            *command,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **({} if end == "server died" else {"STAY": "1"})},
    )
    assert harness.stdin is not None
    assert harness.stdout is not None
    leader = int(harness.stdout.readline())
    deadline = time.monotonic() + 20
    while not process_ids.exists() or len(process_ids.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes = [leader, *map(int, process_ids.read_text().split())]
    if end == "pipe":
        harness.stdin.close()
    elif end == "harness killed":
        harness.kill()
    elif end == "guard terminated":
        os.kill(leader, signal.SIGTERM)
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, end
        time.sleep(0.02)
    harness.kill()
    harness.wait()
    harness.stdin.close()
    harness.stdout.close()
