"""Assertions about error messages, shared by the tests of bad input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from harness.errors import HarnessError
from harness.validation import explain


def told(action: Callable[[], object], *words: str) -> str:
    """Assert that an action fails with a message of one line that contains these words, and return the message."""
    with pytest.raises((HarnessError, ValidationError)) as caught:
        action()
    message = explain(caught.value) if isinstance(caught.value, ValidationError) else str(caught.value)
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    return message
