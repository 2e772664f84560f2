"""Secrets of a config: hidden in everything that is stored, and never part of a run's identity."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MASK = "***"
#: Names that only credentials have.
_CREDENTIAL = re.compile(
    r"(^|[_-])((secret|password|passwd|passphrase|pwd|apikey|credential)s?|authorization|bearer|cookie"
    r"|(api|access|private|auth|bearer|hf)[_-](key|token)s?)$",
    re.IGNORECASE,
)
#: Names of credentials and of ordinary settings as well, such as ``sep_token``.
_AMBIGUOUS = re.compile(r"(^|[_-])(token|pass|key|auth)$", re.IGNORECASE)
#: Options that hold environment variables or headers: any of their values may be a secret, whatever its name.
_PRIVATE = re.compile(r"(^|_)(env|environment|headers?|cookies|servers)$", re.IGNORECASE)
#: Environment variables that look like secrets (``pwd``) and are folders.
_FOLDERS = {"PWD", "OLDPWD"}
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_ADDRESS = re.compile(r"\b[\w+.-]+://[^\s'\"<>]+")
_SHORTEST = 10  # a shorter value of an environment variable may be an ordinary word


def without_secrets(value: Any) -> Any:
    """Return a config with its secrets masked.

    Masked are: values whose name marks them as secrets (``HF_TOKEN``, ``api_key``, ``accessToken``), all values of
    environments and headers, and every occurrence of a secret of this process's environment. Addresses lose user and
    query, which may hold keys. Options that name an environment variable (``..._env``) keep only such a name.
    """
    return _masked(value, (), _environment_secrets(), _hidden)


def distinguishable(value: Any) -> Any:
    """Return a config like :func:`without_secrets`, but keep different values of ambiguous names different.

    A value like that of ``sep_token`` becomes a hash, which is too short to recover a key from it.
    """
    return _masked(value, (), _environment_secrets(), _hashed)


def _environment_secrets() -> list[str]:
    """Return the values of environment variables whose names mark them as secrets, longest first; no paths."""
    found = {
        item
        for name, item in os.environ.items()
        if _is_secret(name) and name not in _FOLDERS and len(item) >= _SHORTEST and not _is_path(item)
    }
    return sorted(found, key=len, reverse=True)


def _is_secret(name: str) -> bool:
    return any(pattern.search(_snake(name)) for pattern in (_CREDENTIAL, _AMBIGUOUS))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


def _is_path(value: str) -> bool:
    try:
        return Path(value).is_absolute() and Path(value).exists()
    except (OSError, ValueError):
        return False


def _masked(
    value: Any, path: tuple[str, ...], known: Sequence[str], mask: Callable[[tuple[str, ...], Any], Any]
) -> Any:
    name = path[-1] if path else ""
    private, secret_name = bool(_PRIVATE.search(name)), _is_secret(name) and not isinstance(value, bool)
    if isinstance(value, Mapping):
        hidden = private or secret_name
        return {
            key: _hidden(path, item) if hidden else _masked(item, (*path, str(key)), known, mask)
            for key, item in value.items()
        }
    if isinstance(value, list) and not secret_name:
        lines = private and not name.endswith("_env")  # a list of "NAME=VALUE"
        return [
            _hidden(path, item) if lines and isinstance(item, str) else _masked(item, path, known, mask)
            for item in value
        ]
    if secret_name:
        return (_hidden if any(secret in str(value) for secret in known) else mask)(path, value)
    if not isinstance(value, str):
        return value
    if name.endswith("_env") and not _ENVIRONMENT_NAME.fullmatch(value):
        return _hidden(path, value)
    for secret in known:
        value = value.replace(secret, MASK)
    return _ADDRESS.sub(_plain_address, value)


def _hidden(path: tuple[str, ...], value: Any) -> Any:
    return value if value is None else MASK


def _hashed(path: tuple[str, ...], value: Any) -> Any:
    if value is None or value == MASK or _CREDENTIAL.search(_snake(path[-1])):
        return _hidden(path, value)
    # With the option's name, so that equal values of two options have different hashes.
    text = json.dumps([".".join(path), value], default=str)
    return f"{MASK}{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _plain_address(match: re.Match[str]) -> str:
    address = urlsplit(match[0])
    return urlunsplit((address.scheme, address.netloc.rpartition("@")[2], address.path, "", ""))
