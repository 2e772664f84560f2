"""Imports follow the layers that docs/architecture.md states, without circles."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "describers", "judges")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def imported(module: str) -> Iterator[str]:
    """Yield the project's modules that a module imports anywhere: in functions and behind TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            found = name if name in FILES else name.rpartition(".")[0]
            if found in FILES and found != module:
                yield found


GRAPH = {module: set(imported(module)) for module in FILES}


def layers() -> dict[str, int]:
    """Read the layer of each module or package from the table in docs/architecture.md."""
    found: dict[str, int] = {}
    for layer, cell in re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "docs/architecture.md").read_text(), re.M):
        folder = ""
        for name in re.findall(r"`([\w/.]+)`", cell):
            path = name if "/" in name else folder + name
            folder = path.rstrip("/").rpartition("/")[0] + "/"
            found[path.rstrip("/").removesuffix(".py").replace("/", ".")] = int(layer)
    return found


LAYERS = layers()
#: The package itself holds only its version, and `python -m harness` starts the command line.
OUTSIDE = {"harness", "harness.__main__"}


def layer_of(module: str) -> int:
    parts = module.split(".")
    return next(LAYERS[name] for name in (".".join(parts[:2]), parts[0]) if name in LAYERS)


def test_every_module_has_a_layer() -> None:
    assert len(LAYERS) > 15
    for module in set(FILES) - OUTSIDE:
        assert layer_of(module), module


def test_no_module_imports_from_a_higher_layer() -> None:
    upward = sorted(
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        if module not in OUTSIDE
        for other in others - OUTSIDE
        if layer_of(other) > layer_of(module)
    )
    assert upward == []


def test_there_are_no_circles() -> None:
    try:
        TopologicalSorter({module: others - OUTSIDE for module, others in GRAPH.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_packages_of_one_layer_do_not_import_each_other_in_a_circle() -> None:
    def package(module: str) -> str:
        return ".".join(module.split(".")[:2]) if module.startswith("harness.") else module.split(".")[0]

    graph: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        if module not in OUTSIDE:
            graph.setdefault(package(module), set()).update(package(other) for other in others - OUTSIDE)
    try:
        TopologicalSorter({name: others - {name} for name, others in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_methods_import_what_anyone_elses_methods_may() -> None:
    for module, others in GRAPH.items():
        if not module.startswith("harness"):
            private = {name for name in others if re.match(r"harness\.(run|plan|report|export|reparse|label)\b", name)}
            assert not private, (module, private)


def test_the_harness_does_not_import_methods() -> None:
    for module, others in GRAPH.items():
        if module.startswith("harness"):
            assert not {name for name in others if not name.startswith("harness")}, module


#: What takes long to import.
HEAVY = {"torch", "transformers", "sklearn", "scipy", "matplotlib", "datasets", "wandb", "ray", "sentence_transformers"}


def test_options_are_checked_before_heavy_libraries_are_imported() -> None:
    methods = [
        f"{package}.{path.stem}" for package in ("describers", "judges") for path in (ROOT / package).glob("*.py")
    ]
    always = ["harness.run.main", "harness.run.setup"]
    others = ["harness.run.ray_executor", "harness.subject.subject"]
    others += ["harness.planted.subject", "harness.planted.corpus", "harness.evidence.sources", "harness.embedding"]
    first, then = ", ".join(always), ", ".join([*others, *methods])
    code = f"import sys, {first}; print(*sys.modules); import {then}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    always_imported, imported = map(set, map(str.split, done.stdout.splitlines()))
    assert (HEAVY | {"pyarrow"}) & always_imported == set()
    assert HEAVY & imported == set()


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m harness --help | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("neuron-harness: ")
