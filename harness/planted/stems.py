"""Words without their inflections, so that two forms of one word can be known as such."""

from __future__ import annotations

_SHORTEST = 3


def stem(word: str) -> str:
    """Return a word without its regular English inflection, for comparison only: what is left need be no word.

    ``ship`` and ``ships``, ``city`` and ``cities``, ``jump``, ``jumped`` and ``jumping``, ``run`` and ``running`` have
    equal stems; irregular forms do not.
    """
    root = word.lower()
    if root.endswith("s") and not root.endswith(("ss", "us", "is")) and len(root) > _SHORTEST:
        root = root[:-1]
    for ending in ("ing", "ed"):
        if root.endswith(ending) and len(root) >= len(ending) + _SHORTEST:
            root = root.removesuffix(ending)
            break
    if root.endswith("e") and len(root) > _SHORTEST:
        root = root[:-1]
    if len(root) > _SHORTEST and root[-1] == root[-2]:
        root = root[:-1]
    return f"{root[:-1]}i" if root.endswith("y") else root
