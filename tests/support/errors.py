"""How a mistake is to be told: what the tests of bad input share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.errors import HarnessError


def told(action: Callable[[], object], *words: str) -> str:
    """Assert that an action fails with one line that has these words, and return it."""
    with pytest.raises(HarnessError) as caught:
        action()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    return message
