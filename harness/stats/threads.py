"""One BLAS thread for statistics: their products are small, so more threads only wait for each other."""

from collections.abc import Callable
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

F = TypeVar("F", bound=Callable[..., Any])

one_thread: Callable[[F], F] = threadpool_limits.wrap(limits=1)
"""Decorator of a function that runs with one BLAS and OpenMP thread."""
