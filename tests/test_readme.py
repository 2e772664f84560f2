"""The README does what it says: its commands compose, its messages are those of the code, its links lead on."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.run.help import compose_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PLACEHOLDERS = {"HOST": "localhost", "NAME": "some-model", "USER": "me", "$PWD": str(ROOT), "...": "x"}


def commands() -> Iterator[str]:
    """The lines of the README's shell blocks: continued ones joined, comments and settings of the shell left out."""
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] != "export":
                yield shlex.join(words)


def arguments(command: str, program: str) -> list[str] | None:
    """Return what a program is called with, or none if the command calls another."""
    words, called = shlex.split(command), program.split()
    return words[len(called) :] if words[: len(called)] == called else None


RUNS = [found for command in commands() if (found := arguments(command, "neuron-harness")) is not None]


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_every_run_composes(words: list[str], tmp_path: Path) -> None:
    known = {"-m", "--multirun", "--help", "--cfg", "job"}
    overrides = [word for word in words if word not in known]
    for placeholder, value in PLACEHOLDERS.items():
        overrides = [word.replace(placeholder, value) for word in overrides]
    if any(word.startswith("hydra.searchpath") for word in overrides):
        return  # test_run runs it, with the README's own files
    swept = [parsed for parsed in OverridesParser.create().parse_overrides(overrides) if parsed.is_sweep_override()]
    assert bool(swept) <= ("-m" in words), "a sweep needs -m"
    given = {parsed.input_line for parsed in swept}
    single = [word for word in overrides if word not in given]
    for parsed in swept:
        value = parsed.value().start if parsed.is_interval_sweep() else next(iter(parsed.sweep_string_iterator()))
        single.append(f"{parsed.get_key_element()}={value}")
    composed = [word for word in single if not word.startswith("hydra/")]
    assert compose_config(composed).folder


MODULES = sorted(set(re.findall(r"python -m (harness\.\w+)", README)))


@pytest.mark.parametrize("module", MODULES)
def test_every_command_has_help_that_names_its_options(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    shown = capsys.readouterr().out
    used = {
        word.partition("=")[0]
        for command in commands()
        for word in arguments(command, f"python -m {module}") or []
        if word.startswith("--")
    }
    assert all(option in shown for option in used), used


def test_every_other_command_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        program, *words = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), command
        elif program == "python" and words[0] != "-m":
            assert (ROOT / words[0]).is_file(), command
        else:
            assert program in {"neuron-harness", "python", "pip", "wandb", "ray", "sbatch"}, command


def test_quoted_messages_are_those_of_the_code() -> None:
    section = README[README.index("## When something goes wrong") :]
    messages = re.findall(r"^\| `([^`]+)`", section[: section.index("\n## ", 1)], re.MULTILINE)
    assert len(messages) >= 8
    sources = [
        path.read_text() for folder in ("harness", "describers", "judges") for path in (ROOT / folder).rglob("*.py")
    ]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # literals that are written in parts
    for message in messages:
        for part in re.split(r"\s*\b[A-Z]{2,}\b\s*|\s*…\s*", message):
            assert part in code, (message, part)


def test_links_lead_to_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_python_blocks_name_what_exists() -> None:
    for module, names in re.findall(r"^from (harness[\w.]*) import ([\w, ]+)$", README, re.MULTILINE):
        found = importlib.import_module(module)
        assert all(hasattr(found, name.strip()) for name in names.split(",")), (module, names)
