"""Random numbers that depend on the identity of an item, not on the order of the work."""

import hashlib
import random

import numpy as np


def derive_seed(seed: int, *identity: object) -> int:
    """Return a 63-bit seed for one item, from the run's seed and the item's identity.

    Every random choice of a run uses such a seed, so that results depend neither on the order of the work, nor on
    concurrency, nor on interruptions.
    """
    text = "\x1f".join([str(seed), *map(str, identity)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_rng(seed: int, *identity: object) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *identity))


def derangement(count: int, seed: int, *identity: object) -> list[int]:
    """Return a random permutation of ``range(count)`` without fixed points (Sattolo's algorithm).

    Raises:
        ValueError: if ``count`` is 1, for which there is none.
    """
    if count == 1:
        raise ValueError("a single item has no derangement")
    rng = random.Random(derive_seed(seed, "derangement", *identity))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = rng.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
