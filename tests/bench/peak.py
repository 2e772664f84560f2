"""Peak memory of this process (Linux)."""

from __future__ import annotations

import ctypes
import resource


def above(held: int) -> float:
    """Return by how many MiB the peak is above ``held`` bytes."""
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held) / 2**20


def resident() -> int:
    """Return the resident bytes of this process, after freeing unused memory and resetting the peak."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123 - 5 resets the peak (Linux, man 5 proc)
        file.write("5")
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()
