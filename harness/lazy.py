"""Names that a package exports but imports only at first use (PEP 562)."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_exports(package: str, file: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose modules are imported when one of their names is first used.

    PyTorch and transformers take seconds to import. A mistake in the options, and ``--help``, should not wait for them.

    Args:
        package: name of the package.
        file: its source file, which imports the exported names under ``TYPE_CHECKING``.
    """
    imports = [node for node in ast.walk(ast.parse(Path(file).read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    home = {name.name: node.module for node in imports for name in node.names}

    def find(name: str) -> Any:
        module = home.get(name) or ""
        if not module.startswith(f"{package}."):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), name)

    return find
