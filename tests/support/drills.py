"""Runs in processes of their own, which drills kill, starve of disk space and start again."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.folder import RunFolder
from harness.llm.probe import PROBE
from harness.records import Usage
from support import tiny_models
from support.endpoint import FakeEndpoint, Reply, endpoint, said
from support.resume_page import artefact_of

#: Processes are forked from a server that has imported what runs import, which takes most of the time of a small run.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("harness.run.main", "harness.run.setup", "harness.run.pipeline", "harness.report.build"),
        *("transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"),
        *("describers.rotate", "judges.embedding", "judges.pairwise", "judges.steered", "scipy.stats"),
        *("matplotlib.pyplot", "openai", "hydra.main"),
    ]
)
WORDS = ["harbour", "opens", "compare", "version", "size", "boats", "return", "late", "numbers", "letters", "colour"]


def run_options(folder: Path) -> list[str]:
    """Return the options of a run with every artefact: two neurons of a tiny Llama, and LLMs in two roles."""
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return [
        *("experiment=llm", "subject=local", f"subject.sources=[{folder / 'llama'}]", "subject.name=tiny"),
        *("neurons.layers=[1]", "neurons.per_layer=2", "decomposition.num_channels=2", "executor.block=1"),
        *("corpus=files", f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=40"),
        *("evidence.window=16", "evidence.top=3", "evidence.random=6", "evidence.checkpoint_s=0"),
        *("describers=[rotate,maxact,token_change,generic]", "judges=[pairwise,embedding_pairwise,responsiveness]"),
        *("diagnostics.sample=1", "diagnostics.random_vectors=2", "diagnostics.ablated=2", "statistics.draws=50"),
        *("steering.effects.prompts=4", "steering.texts.prompts=[It is]", "steering.texts.values=[2]"),
        *("steering.texts.unit=absolute", "steering.texts.tokens=4", "comparisons.retest=1"),
        *("explainer_check.concepts=2", "tracking=none", "folder=run"),
    ]


class Oracle:
    """An LLM behind an HTTP server, whose answer is a function of the request; it counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, body: dict[str, Any]) -> Reply:
        text = json.dumps(body["messages"])
        if body["messages"][-1]["content"] == PROBE[-1].content:
            return said('{"answer": "yes"}')
        self.asked.append(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())
        time.sleep(0.01)
        return said(json.dumps(_filled(body["response_format"]["json_schema"]["schema"], text)))

    @contextmanager
    def serving(self) -> Iterator[FakeEndpoint]:
        with endpoint(self) as server:
            yield server


def _filled(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Return an object that fits a flat schema; the text decides on its values."""
    return {name: _value(kind, f"{name} {text}") for name, kind in schema["properties"].items()}


def _value(kind: dict[str, Any], text: str) -> Any:
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    if "enum" in kind:
        return kind["enum"][number % len(kind["enum"])]
    if kind["type"] in ("integer", "number"):
        low = int(kind.get("minimum", 0))
        return low + number % (int(kind.get("maximum", 9)) - low + 1)
    return " ".join(WORDS[number // len(WORDS) ** place % len(WORDS)] for place in range(4))


def roles(url: str, *names: str, **more: Any) -> list[str]:
    """Return the options that give roles (default: explainer and judge) an LLM at an address."""
    settings = {"model": "m", "base_url": url, "retries": 0, "concurrency": 4, **more}
    return [
        option
        for role in names or ("explainer", "judge")
        for option in (
            f"llm@llm.{role}=openai",
            *(f"llm.{role}.{name}={value}" for name, value in settings.items()),
        )
    ]


@dataclass(frozen=True)
class Event:
    """Something that appears in the folder of a run.

    Attributes:
        path: a file, relative to the folder.
        lines: of a journal; 0 if the file exists.
        gap: seconds until the next event.
        next: the artefact of the next event.
    """

    path: Path
    lines: int
    gap: float
    next: str


@dataclass
class Drilled:
    """A run in a process of its own, in a folder with its own cache.

    Attributes:
        place: the working folder; the run is in ``run``.
        arguments: of the command line.
        cache: folder of its caches; ``cache`` in the working folder by default.
    """

    place: Path
    arguments: list[str]
    cache: Path = Path("cache")
    process: BaseProcess | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the run."""
        self.place.mkdir(parents=True, exist_ok=True)
        arguments = [*self.arguments, f"cache={self.place / self.cache}"]
        self.process = PROCESSES.Process(target=_command_line, args=(self.place, self.log, arguments))
        self.process.start()

    @property
    def log(self) -> Path:
        """What it printed since its last start; not on the disk of ``place``."""
        return self.place.with_name(f"{self.place.name}.log")

    def wait(self, limit: float = 300) -> int:
        """Wait for its end, and return its exit status (negative: the signal that ended it)."""
        assert self.process is not None
        self.process.join(limit)
        assert self.process.exitcode is not None, f"still running: {self.log.read_text()[-2000:]}"
        return self.process.exitcode

    def run(self) -> tuple[int, str]:
        """Run to its end, and return its exit status and output."""
        self.start()
        return self.wait(), self.log.read_text()

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.place / "run")

    @property
    def answers_stored(self) -> int:
        """Number of answers in its cache."""
        path = self.place / self.cache / "llm" / "responses.sqlite"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return sum(connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in tables)

    def files(self) -> list[Path]:
        """Return the files of the run, without lock and logs, relative to its folder."""
        root = self.folder.path
        found = [Path(parent) / name for parent, _, names in os.walk(root) for name in names]
        return [path.relative_to(root) for path in found if "logs" not in path.parts and path.name != ".lock"]

    def observed(self) -> list[Event]:
        """Run to the end, and return what appeared in the folder, in this order."""
        self.start()
        seen: dict[tuple[Path, int], float] = {}
        while not self._ended():
            for path in self.files():
                if not path.name.startswith("."):
                    seen.setdefault((path, self._lines(path)), time.monotonic())
            time.sleep(0.003)
        assert self.wait() == 0, self.log.read_text()[-3000:]
        ordered = sorted(seen, key=lambda key: seen[key])
        return [
            Event(path, lines, seen[after] - seen[path, lines], artefact_of(after[0]) or "Manifest")
            for (path, lines), after in itertools.pairwise(ordered)
        ]

    def killed_at(self, event: Event, delay: float) -> bool:
        """Start the run, and kill it some seconds after an event; return whether it was still running."""
        begun = time.time()
        self.start()
        manifest, path = self.folder.manifest, self.folder.path / event.path

        def reached() -> bool:
            # The manifest is written at every start, after the imports.
            if not path.exists() or manifest.stat().st_mtime < begun:
                return False
            return self._lines(event.path) >= event.lines

        while not self._ended() and not reached():
            time.sleep(0.002)
        time.sleep(delay)
        assert self.process is not None
        self.process.kill()
        return self.wait() == -signal.SIGKILL

    def _lines(self, path: Path) -> int:
        return (self.folder.path / path).read_bytes().count(b"\n") if path.suffix == ".jsonl" else 0

    def _ended(self) -> bool:
        assert self.process is not None
        return self.process.exitcode is not None


def _command_line(place: Path, log: Path, arguments: list[str]) -> None:
    os.chdir(place)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdin = sys.__stdin__
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.argv = ["neuron-harness", *arguments]
    from harness.run.main import main

    main()


def contents(folder: RunFolder) -> dict[str, Any]:
    """Return all records of a run by artefact, without usage, in a fixed order."""
    journals = {
        **{"descriptions": folder.descriptions(), "verdicts": folder.verdicts(), "scores": folder.scores()},
        **{"retests": folder.retests(), "score_retests": folder.score_retests(), "check": folder.explainer_check()},
    }
    found: dict[str, Any] = {
        name: sorted((dataclasses.replace(one, usage=Usage()) for one in journal.records()), key=repr)
        for name, journal in journals.items()
    }
    for path in sorted(folder.path.rglob("*.parquet")):
        found[str(path.relative_to(folder.path))] = pq.read_table(path).to_pylist()
    for path in sorted(folder.path.rglob("*.safetensors")):
        found[str(path.relative_to(folder.path))] = path.read_bytes()
    return {**found, "leaderboard": json.loads(folder.leaderboard.read_text())}


def one_clear_line(output: str) -> str:
    """Assert that the output has no trace and ends with one line of error, and return that line."""
    assert "Traceback" not in output, output[-3000:]
    assert "Logging error" not in output, output[-3000:]
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output[-3000:]
    assert output.splitlines()[-1] == errors[0]
    assert not re.search(r"\[Errno \d+\]", errors[0]), errors[0]
    return errors[0]
