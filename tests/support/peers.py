"""Definitions of other projects' packages, imported without what these packages need to read files and to plot."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

#: What the modules of other packages import at their start and the definitions do not use.
UNUSED = ("blobfile", "boostedblob", "httpx", "orjson", "plotly", "plotly.express", "plotly.graph_objects")
UNUSED += ("simple_parsing", "tiktoken")


def peer(package: str, module: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of an installed package without the package's own imports, or skip the test.

    Args:
        package: the package.
        module: the module's path in it.
        monkeypatch: takes the modules away after the test.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"needs {package}")
    for name in UNUSED:
        if _missing(name):
            monkeypatch.setitem(sys.modules, name, MagicMock(Serializable=object))
    folder, _, name = module.rpartition(".")
    parent: Any = ModuleType(f"peer_{package}")
    parent.__path__ = [str(Path(found.origin).parent / folder.replace(".", "/"))]
    monkeypatch.setitem(sys.modules, parent.__name__, parent)
    return importlib.import_module(f"{parent.__name__}.{name}")


def _missing(name: str) -> bool:
    try:
        return name not in sys.modules and importlib.util.find_spec(name) is None
    except ModuleNotFoundError:  # its parent is missing
        return True
